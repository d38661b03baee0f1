"""Arrangements of modules; nothing about training."""

from lissome.models.activation import ACTIVATIONS, ReLU3, Sin, activation
from lissome.models.constructions import gradient_descent, newton_schulz
from lissome.models.decoder import Decoder
from lissome.models.edges import EdgeFunctions, edge_functions
from lissome.models.generation import generate
from lissome.models.in_context import Continuation, Regressor, Settled
from lissome.models.kan import KAN, KANLayer, SlimKANLayer
from lissome.models.looped import Looped
from lissome.models.looped_shape import BODIES, LoopedShape
from lissome.models.mlp import MLP
from lissome.models.pykan import from_pykan
from lissome.models.regrid import update_grid
from lissome.models.shape import PRESETS, DecoderShape
from lissome.models.stored import read_decoder, read_reader, save_decoder, save_reader
from lissome.models.two_layer import TwoLayerKAN

__all__ = [
    "ACTIVATIONS",
    "BODIES",
    "KAN",
    "MLP",
    "PRESETS",
    "Continuation",
    "Decoder",
    "DecoderShape",
    "EdgeFunctions",
    "KANLayer",
    "Looped",
    "LoopedShape",
    "ReLU3",
    "Regressor",
    "Settled",
    "Sin",
    "SlimKANLayer",
    "TwoLayerKAN",
    "activation",
    "edge_functions",
    "from_pykan",
    "generate",
    "gradient_descent",
    "newton_schulz",
    "read_decoder",
    "read_reader",
    "save_decoder",
    "save_reader",
    "update_grid",
]
