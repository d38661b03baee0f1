"""Arrangements of modules; nothing about training."""

from lissome.models.activation import ACTIVATIONS, ReLU3, Sin, activation
from lissome.models.kan import KAN, KANLayer, SlimKANLayer
from lissome.models.mlp import MLP
from lissome.models.regrid import update_grid

__all__ = ["ACTIVATIONS", "KAN", "MLP", "KANLayer", "ReLU3", "Sin", "SlimKANLayer", "activation", "update_grid"]
