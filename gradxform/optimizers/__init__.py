"""Optimizers: each its paper's equation as a chain of primitives."""
