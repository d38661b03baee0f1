"""Combinations of methods, each beside itself without one of its parts, from the same start and seed."""
