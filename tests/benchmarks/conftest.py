"""Races between gradxform and another library: interleaved in one run, so that both meet the same machine."""

import gc
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

Contestant = Callable[[], Callable[[], Any]]
"""Prepares, off the clock, what is then timed."""


@pytest.fixture
def race(benchmark: Any, record_property: Callable[[str, object], None]) -> Callable[..., float]:
    """Time two contestants in turns; `run.py` turns what is recorded into a table.

    Each round runs both, one right after the other; who begins changes from round to round. The ratio is the
    median of the rounds' own ratios, and its spread goes from the first to the third quartile.
    """

    def race(
        name: str,
        ours: Contestant,
        theirs: Contestant,
        *,
        rounds: int,
        at_most: float | None = None,
        at_least: float | None = None,
        seconds_at_most: float = float("inf"),
        rival: str = "Optax",
    ) -> float:
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}

        def timed(who: str, run: Callable[[], Any]) -> None:
            begin = perf_counter()
            result = run()
            took = perf_counter() - begin
            # Where the clock ran in another process, the result is what it said.
            seconds[who].append(result if isinstance(result, float) else took)

        def ready(contestant: Contestant) -> Callable[[], Any]:
            run = contestant()
            gc.collect()
            return run

        def catch_up(done: int) -> None:
            while len(seconds["theirs"]) < done:
                timed("theirs", ready(theirs))

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            done = len(seconds["ours"])
            catch_up(done + (done + 1) % 2)
            return (ready(ours),), {}

        theirs()()
        ours()()
        gc.disable()
        try:
            benchmark.pedantic(lambda run: timed("ours", run), setup=setup, rounds=rounds)
            catch_up(len(seconds["ours"]))
        finally:
            gc.enable()
        pairs = zip(seconds["ours"], seconds["theirs"], strict=True)
        faster = at_least is not None
        ratios = [theirs / ours if faster else ours / theirs for ours, theirs in pairs]
        low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        target = f"at least {at_least:g}" if faster else f"at most {at_most:g}"
        if seconds_at_most < float("inf"):
            target += f", and at most {seconds_at_most:g} s"
        median = statistics.median(seconds["ours"])
        met = (ratio >= at_least if faster else ratio <= at_most) and median <= seconds_at_most
        record_property(
            "race",
            {
                "name": name,
                "rival": rival,
                "ours": median,
                "theirs": statistics.median(seconds["theirs"]),
                "ratio": ratio,
                "low": low,
                "high": high,
                "rounds": len(ratios),
                "target": target,
                "met": met,
            },
        )
        return ratio

    return race


def _layers() -> dict[str, Any]:
    """200 leaves: 100 dense layers of 64 units."""
    return {f"layer{i:02}": {"kernel": (64, 64), "bias": (64,)} for i in range(100)}


def _gpt2_small() -> dict[str, Any]:
    """148 leaves, 124 million numbers."""
    width = 768

    def norm() -> dict[str, Any]:
        return {"scale": (width,), "bias": (width,)}

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {"kernel": (inputs, outputs), "bias": (outputs,)}

    def block() -> dict[str, Any]:
        return {
            "norm_1": norm(),
            "attention": {"in": dense(width, 3 * width), "out": dense(width, width)},
            "norm_2": norm(),
            "mlp": {"in": dense(width, 4 * width), "out": dense(4 * width, width)},
        }

    blocks = [block() for _ in range(12)]
    return {"tokens": (50257, width), "positions": (1024, width), "blocks": blocks, "norm": norm()}


TREES = {"200 leaves": _layers(), "GPT-2 small": _gpt2_small()}


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple)


@pytest.fixture(params=TREES)
def tree_name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def abstract(tree_name: str) -> Any:
    """The tree as shapes, for what is only traced."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), TREES[tree_name], is_leaf=_is_shape
    )


@pytest.fixture
def draw(tree_name: str) -> Callable[[int], Any]:
    """The tree as arrays, from a seed."""

    def draw(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return jax.tree.map(
            lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32) / 100),
            TREES[tree_name],
            is_leaf=_is_shape,
        )

    return draw


def _training_chain(library: Any) -> Any:
    """The chain of the races: clipping, Adam, decoupled weight decay and a cosine schedule."""
    return library.chain(
        library.clip_by_global_norm(1.0),
        library.scale_by_adam(),
        library.add_decayed_weights(0.01),
        library.scale_by_learning_rate(library.cosine_decay_schedule(1e-3, 10_000)),
    )


@pytest.fixture(scope="session")
def chains() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Builders of the same chain, ours and Optax's. A fresh one has no traces of its own yet."""
    return lambda: _training_chain(gx), lambda: _training_chain(optax)


def step_of(tx: Any) -> Callable[..., Any]:
    """A training step's share of the optimizer: the update, and its addition to the parameters."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    return step


@pytest.fixture
def tracing(abstract: Any) -> Callable[[Callable[[], Any]], Contestant]:
    """A first trace of the update, with nothing cached yet, as a program does it once."""

    def tracing(build: Callable[[], Any]) -> Contestant:
        def prepare() -> Callable[[], Any]:
            tx = build()
            state = jax.eval_shape(tx.init, abstract)
            jax.clear_caches()
            return lambda: jax.jit(tx.update).trace(abstract, state, abstract)

        return prepare

    return tracing


@pytest.fixture
def stepping(draw: Callable[[int], Any]) -> Callable[[Callable[[], Any], int], Contestant]:
    """So many compiled steps, parameters and state given away, as a training loop does."""

    def stepping(build: Callable[[], Any], steps: int) -> Contestant:
        tx = build()
        params, grads = draw(0), draw(1)
        # Copied: some states hold the parameters themselves, and no buffer can be given away twice.
        carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
        step = jax.jit(step_of(tx), donate_argnums=(0, 1))

        def run() -> None:
            nonlocal carry
            for _ in range(steps):
                carry = step(*carry, grads)
            jax.block_until_ready(carry)

        return lambda: run

    return stepping


@pytest.fixture
def lowered_size(abstract: Any) -> Callable[[Any], int]:
    """The length of the lowered step before any optimization."""

    def size(tx: Any) -> int:
        state = jax.eval_shape(tx.init, abstract)
        return len(jax.jit(step_of(tx)).lower(abstract, state, abstract).as_text())

    return size
