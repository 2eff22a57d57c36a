"""The shapes of the trees that the races step on: no data, only what their formulas say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shapes = Any
"""A tree whose leaves are tuples of numbers."""


def layers(count: int, width: int = 64) -> Shapes:
    """Dense layers, each of two leaves."""
    return {f"layer{i:03}": {"kernel": (width, width), "bias": (width,)} for i in range(count)}


def resnet50(classes: int = 1000) -> Shapes:
    """161 leaves, 25.6 million numbers: bottlenecks of three convolutions, of which the last is wider."""

    def norm(width: int) -> Shapes:
        return {"scale": (width,), "bias": (width,)}

    def convolution(size: int, inputs: int, outputs: int) -> Shapes:
        return {"kernel": (size, size, inputs, outputs), "norm": norm(outputs)}

    blocks, inputs = [], 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for place in range(depth):
            block = {
                "narrow": convolution(1, inputs, width),
                "convolve": convolution(3, width, width),
                "widen": convolution(1, width, 4 * width),
            }
            if place == 0:
                block["shortcut"] = convolution(1, inputs, 4 * width)
            blocks.append(block)
            inputs = 4 * width
    head = {"kernel": (inputs, classes), "bias": (classes,)}
    return {"stem": convolution(7, 3, 64), "blocks": blocks, "head": head}


def gpt2_small(width: int = 768, depth: int = 12) -> Shapes:
    """148 leaves, 124 million numbers."""

    def norm() -> Shapes:
        return {"scale": (width,), "bias": (width,)}

    def dense(inputs: int, outputs: int) -> Shapes:
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    def block() -> Shapes:
        return {
            "norm_1": norm(),
            "attention": {"in": dense(width, 3 * width), "out": dense(width, width)},
            "norm_2": norm(),
            "mlp": {"in": dense(width, 4 * width), "out": dense(4 * width, width)},
        }

    blocks = [block() for _ in range(depth)]
    return {"tokens": (50257, width), "positions": (1024, width), "blocks": blocks, "norm": norm()}


TREES: dict[str, Shapes] = {
    "200 leaves": layers(100),
    "2,000 leaves": layers(1000),
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2_small(),
}


def _map(function: Any, shapes: Shapes) -> Any:
    return jax.tree.map(function, shapes, is_leaf=lambda node: isinstance(node, tuple))


def abstract(shapes: Shapes) -> Any:
    """The tree of float32 for what is only traced."""
    return _map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes)


def draw(shapes: Shapes, seed: int) -> Any:
    """The tree as arrays, from a seed."""
    rng = np.random.default_rng(seed)
    return _map(lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32) / 100), shapes)
