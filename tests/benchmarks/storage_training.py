"""What a state in few bytes does to training: ``python tests/benchmarks/storage_training.py [codec ...]``.

Adam on digits and on a character transformer, five seeds each, with its state in float32 and stored: the mean
final losses, how far the stored ones are from those of float32, and how far single seeds are.
"""

import sys
from collections.abc import Callable
from typing import Any

import character_transformer as transformer
import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from gradxform.comparison.tasks import digits
from gradxform.storage.codecs import CODECS
from gradxform.storage.store import store

SEEDS, STEPS, SIZE = 5, 800, 16

Make = Callable[[Any], Any]


def on_digits(make: Make) -> np.ndarray:
    """After 40 epochs at a constant rate: the losses on training and validation data, for each seed."""
    task, tx = digits(), make(1e-3)
    loss = jax.jit(lambda params, data: task.loss(params, data)[0])
    found = []
    for seed in range(SEEDS):
        start = task.init(jax.random.key(seed))
        result = gx.fit(task.loss, start, task.train, tx, batch_size=32, epochs=40, key=seed, progress=False)
        found.append([float(loss(result.params, data)) for data in (task.train, task.validation)])
    return np.asarray(found)


def on_text(make: Make) -> np.ndarray:
    """After some hundred steps at a rate that goes to zero: the last hundred losses, and on other pages."""
    test = transformer.batches(SEEDS, 1, 512, part=1)[0]
    tx = make(gx.cosine_decay_schedule(3e-3, STEPS))

    @jax.jit
    def train(params: Any, batches: jax.Array) -> jax.Array:
        def step(carry: Any, batch: jax.Array) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(transformer.loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return (gx.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(step, (params, tx.init(params)), batches)
        return jnp.stack([values[-100:].mean(), transformer.loss(params, test)])

    seeds = range(SEEDS)
    return np.asarray(
        [train(transformer.init(jax.random.key(s)), transformer.batches(s, STEPS, SIZE)) for s in seeds]
    )


def main(codecs: list[str]) -> None:
    """Train, and print a table for each task."""
    for name, train in (("digits", on_digits), ("characters", on_text)):
        print(f"\n{name:<14}{'training':>10}{'':>24}{'held out':>10}")
        plain = train(gx.adam)
        for codec in ("float32", *codecs):
            losses = plain if codec == "float32" else train(lambda rate, c=codec: store(gx.adam(rate), c))
            row = f"{codec:<14}"
            for column, reference in zip(losses.T, plain.T, strict=True):
                off, apart = column.mean() / reference.mean() - 1, np.abs(column / reference - 1).max()
                row += f"{column.mean():>10.5f} {off:>+8.2%} (≤ {apart:>6.2%})   "
            print(row.rstrip(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CODECS))
