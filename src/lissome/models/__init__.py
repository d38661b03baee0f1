"""Arrangements of modules; nothing about training."""

from lissome.models.activation import ACTIVATIONS, ReLU3, Sin, activation
from lissome.models.decoder import Decoder
from lissome.models.edges import EdgeFunctions, edge_functions
from lissome.models.generation import generate
from lissome.models.kan import KAN, KANLayer, SlimKANLayer
from lissome.models.mlp import MLP
from lissome.models.pykan import from_pykan
from lissome.models.regrid import update_grid
from lissome.models.shape import PRESETS, DecoderShape
from lissome.models.stored import read_decoder, save_decoder
from lissome.models.two_layer import TwoLayerKAN

__all__ = [
    "ACTIVATIONS",
    "KAN",
    "MLP",
    "PRESETS",
    "Decoder",
    "DecoderShape",
    "EdgeFunctions",
    "KANLayer",
    "ReLU3",
    "Sin",
    "SlimKANLayer",
    "TwoLayerKAN",
    "activation",
    "edge_functions",
    "from_pykan",
    "generate",
    "read_decoder",
    "save_decoder",
    "update_grid",
]
