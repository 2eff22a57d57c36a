"""A small transformer that reads the Python reference character by character: real text on every machine."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAYERS, WIDTH, HEADS, CONTEXT = 2, 64, 4, 64


@cache
def text() -> tuple[np.ndarray, np.ndarray]:
    """The topics that ship with Python as numbers of characters: nine tenths to train on, one to test on.

    Every tenth page is for the test.
    """
    from pydoc_data.topics import topics

    pages = [topics[title] for title in sorted(topics)]
    number = {character: i for i, character in enumerate(sorted(set("".join(pages))))}
    train, test = (
        np.asarray(
            [number[c] for i, page in enumerate(pages) if (i % 10 == 9) == held for c in page], np.int32
        )
        for held in (False, True)
    )
    return train, test


def characters() -> int:
    """How many characters there are."""
    return int(max(part.max() for part in text())) + 1


def batches(seed: int, steps: int, size: int, part: int = 0) -> jax.Array:
    """Passages drawn anywhere in the text, each with the character that follows it.

    Args:
      seed: of the places.
      steps: how many batches.
      size: how many passages in each.
      part: 0 for the training text, 1 for the test.

    Returns:
      Numbers of characters, of shape ``(steps, size, CONTEXT + 1)``.
    """
    source = text()[part]
    starts = np.random.default_rng(seed).integers(0, len(source) - CONTEXT, (steps, size))
    return jnp.asarray(source[starts[..., None] + np.arange(CONTEXT + 1)])


def init(key: jax.Array) -> Any:
    """The parameters: 120,000 numbers; the embedding is the output layer too."""
    shapes = {
        "attention": (WIDTH, 3 * WIDTH),
        "merge": (WIDTH, WIDTH),
        "widen": (WIDTH, 4 * WIDTH),
        "narrow": (4 * WIDTH, WIDTH),
    }
    keys = iter(jax.random.split(key, 2 + LAYERS * len(shapes)))

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) * rows**-0.5

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}

    blocks = [
        {"norm_1": norm(), "norm_2": norm(), **{name: matrix(*shape) for name, shape in shapes.items()}}
        for _ in range(LAYERS)
    ]
    return {
        "characters": jax.random.normal(next(keys), (characters(), WIDTH)) * 0.02,
        "places": jax.random.normal(next(keys), (CONTEXT, WIDTH)) * 0.02,
        "blocks": blocks,
        "norm": norm(),
    }


def loss(params: Any, batch: jax.Array) -> jax.Array:
    """The mean cross-entropy of the next character, in nats."""
    x = params["characters"][batch[:, :-1]] + params["places"]
    for block in params["blocks"]:
        x = x + _attend(block, _normalize(block["norm_1"], x))
        x = x + jax.nn.gelu(_normalize(block["norm_2"], x) @ block["widen"]) @ block["narrow"]
    scores = _normalize(params["norm"], x) @ params["characters"].T
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch[:, 1:, None], axis=-1)
    return -chosen.mean()


def _normalize(norm: Any, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * norm["scale"]
        + norm["bias"]
    )


def _attend(block: Any, x: jax.Array) -> jax.Array:
    """Causal attention."""
    split = (x @ block["attention"]).reshape(*x.shape[:-1], 3, HEADS, WIDTH // HEADS)
    query, key, value = (split[..., i, :, :] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (WIDTH // HEADS) ** -0.5
    seen = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape) @ block["merge"]
