"""Arrangements of modules; nothing about training."""

from lissome.models.activation import ACTIVATIONS, ReLU3, Sin, activation
from lissome.models.mlp import MLP

__all__ = ["ACTIVATIONS", "MLP", "ReLU3", "Sin", "activation"]
