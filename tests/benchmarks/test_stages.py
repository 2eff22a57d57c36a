"""From an optimizer to its steps

Seven optimizers on four trees, in float32: 100 and 1,000 dense layers of 64 units (416,000 and 4.2 million
numbers), and the shapes of ResNet-50 (161 leaves, 25.6 million) and of GPT-2 small (148 leaves, 124 million).
A step is the update and its addition to the parameters, which with the state are given away, as in training.

- *trace*, *lower*, *compile*: of a newly built optimizer after `jax.clear_caches()`. *First step* is all of
  them and the first run together: what a program waits for when it starts.
- *steady step*: the compiled step again and again. PyTorch steps on the same numbers with its fused kernels
  and with those that take all leaves at once (`foreach`). The *copy* adds 1 in place to an array so large
  that as many bytes are read and written as the step must: parameters and state once each way, gradients
  once. The ratio to it is the distance from the floor of the memory's speed.
- *memory of the step*: what the compiled program holds at once, by `compiled.memory_analysis()`.
- *un-jitted update*: `tx.update(grads, state, params)` outside `jax.jit`, after a first call.
- *StableHLO text*: the length of the lowered step before any optimization.

The chain is `chain(clip_by_global_norm(1.0), scale_by_adam(), add_decayed_weights(0.01),
scale_by_learning_rate(cosine_decay_schedule(1e-3, 10_000)))`. Muon takes the matrices; of GPT-2 small those
of the blocks, and AdamW the rest. PyTorch has no fused RMSprop and AdaDelta. Its Muon computes in bfloat16
and takes nothing but matrices, which is other work, and is not raced.
"""

from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.races import Contestant, Run, both, start, step_of, stepper

from gradxform.trees import tree_bytes

RATE = 1e-3
CHAIN = "AdamW, clipped, scheduled"


def _chain(library: Any) -> Any:
    return library.chain(
        library.clip_by_global_norm(1.0),
        library.scale_by_adam(),
        library.add_decayed_weights(0.01),
        library.scale_by_learning_rate(library.cosine_decay_schedule(RATE, 10_000)),
    )


def _muon(library: Any) -> Any:
    """Of a language model the usual way: the embeddings, which are matrices too, go to AdamW."""
    numbers = library.contrib.MuonDimensionNumbers()

    def choose(params: Any) -> Any:
        def of_part(name: str) -> Any:
            embeds = name in ("tokens", "positions")
            return jax.tree.map(lambda leaf: numbers if leaf.ndim == 2 and not embeds else None, params[name])

        return {name: of_part(name) for name in params}

    return library.contrib.muon(RATE, muon_weight_dimension_numbers=choose)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD with momentum": lambda library: library.sgd(RATE, momentum=0.9),
    "AdaGrad": lambda library: library.adagrad(RATE),
    "RMSprop": lambda library: library.rmsprop(RATE),
    "AdaDelta": lambda library: library.adadelta(RATE),
    "Adam": lambda library: library.adam(RATE),
    CHAIN: _chain,
    "Muon": _muon,
}

IN_TORCH = {
    "SGD with momentum": ("SGD", {"momentum": 0.9}),
    "AdaGrad": ("Adagrad", {}),
    "RMSprop": ("RMSprop", {}),
    "AdaDelta": ("Adadelta", {}),
    "Adam": ("Adam", {}),
    CHAIN: ("AdamW", {"weight_decay": 0.01}),
}
UNFUSED = ("RMSprop", "AdaDelta")

# Rounds of the first steps, rounds of the steady ones, and steps in a round of these.
ROUNDS = {
    "200 leaves": (3, 21, 50),
    "2,000 leaves": (2, 11, 5),
    "ResNet-50": (3, 15, 2),
    "GPT-2 small": (3, 11, 1),
}
ROUNDS_OF_MUON = {
    "200 leaves": (3, 7, 4),
    "2,000 leaves": (1, 5, 1),
    "ResNet-50": (2, 5, 1),
    "GPT-2 small": (1, 3, 1),
}


class FirstStep:
    """The way from a newly built optimizer to its first step, lap by lap; its last program stays."""

    def __init__(self, build: Callable[[], Any], params: Any, grads: Any) -> None:
        self.build, self.params, self.grads = build, params, grads
        self.carry: Any = None
        self.step: Any = None

    def __call__(self) -> Run:
        tx = self.build()
        self.carry = self.step = None
        self.carry = start(tx, self.params)
        step = jax.jit(step_of(tx), donate_argnums=(0, 1))
        jax.clear_caches()

        def run() -> dict[str, float]:
            times = [perf_counter()]
            traced = step.trace(*self.carry, self.grads)
            times.append(perf_counter())
            lowered = traced.lower()
            times.append(perf_counter())
            self.step = lowered.compile()
            times.append(perf_counter())
            self.carry = jax.block_until_ready(self.step(*self.carry, self.grads))
            times.append(perf_counter())
            laps = dict(zip(("trace", "lower", "compile"), np.diff(times).tolist(), strict=False))
            return {**laps, "first step": times[-1] - times[0]}

        return run

    def bytes(self) -> int:
        """What the compiled step holds at once."""
        sizes = self.step.memory_analysis()
        held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return int(held + sizes.temp_size_in_bytes)


def copying(moved: int, steps: int) -> Contestant:
    """As many bytes, half of them read and half of them written, in place."""
    copy = jax.jit(lambda x, _: (x + 1,), donate_argnums=0)
    return stepper(copy, (jnp.zeros(moved // 8),), None, steps)


def in_torch(optimizer: str, params: Any, grads: Any, steps: int) -> dict[str, Contestant]:
    """PyTorch's own, in each of its forms."""
    if optimizer not in IN_TORCH or find_spec("torch") is None:
        return {}
    import torch

    def racing(form: str) -> Contestant:
        name, arguments = IN_TORCH[optimizer]
        leaves = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in jax.tree.leaves(params)]
        for leaf, grad in zip(leaves, jax.tree.leaves(grads), strict=True):
            leaf.grad = torch.tensor(np.asarray(grad))
        tx = getattr(torch.optim, name)(leaves, lr=RATE, **arguments, **{form: True})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(tx, 10_000)

        def run() -> None:
            for _ in range(steps):
                if optimizer == CHAIN:
                    torch.nn.utils.clip_grad_norm_(leaves, 1.0, foreach=True)
                tx.step()
                if optimizer == CHAIN:
                    schedule.step()

        return lambda: run

    forms = ("foreach",) if optimizer in UNFUSED else ("fused", "foreach")
    return {f"PyTorch, {form}": racing(form) for form in forms}


@pytest.mark.benchmark
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stages(race: Any, record: Any, draw: Callable[[int], Any], tree_name: str, optimizer: str) -> None:
    params, grads = draw(0), draw(1)
    rounds = (ROUNDS_OF_MUON if optimizer == "Muon" else ROUNDS)[tree_name]
    first, steady, steps = rounds
    case = f"{optimizer}, {tree_name}"
    firsts = {who: FirstStep(build, params, grads) for who, build in both(OPTIMIZERS[optimizer]).items()}
    # Of plain descent there is little to trace in either library.
    at_most = {"trace": 1.0 if optimizer == "SGD with momentum" else 0.5, "lower": 1.0}
    race("first step", case, firsts, rounds=first, at_most=at_most, warm_up=False)
    sizes = [each.bytes() for each in firsts.values()]
    record("memory of the step", case, "Optax", *sizes, unit="bytes", at_most=1.01)

    carry = firsts["gradxform"].carry
    moved = 2 * tree_bytes(carry) + tree_bytes(grads)
    contestants = {who: stepper(each.step, each.carry, grads, steps) for who, each in firsts.items()}
    del carry, firsts
    contestants |= in_torch(optimizer, params, grads, steps)
    contestants["a copy"] = copying(moved, steps)
    many = f" (× {steps})" if steps > 1 else ""
    race("steady step", case + many, contestants, rounds=steady, at_most=1.05)


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("tree_name", "optimizer"),
    [
        # Optax's Muon compiles a loop for each matrix in each call, until XLA has no room for another.
        *(("200 leaves", optimizer) for optimizer in OPTIMIZERS if optimizer != "Muon"),
        *((tree, CHAIN) for tree in ROUNDS if tree != "200 leaves"),
    ],
    indirect=["tree_name"],
)
def test_update_without_jit(race: Any, draw: Callable[[int], Any], tree_name: str, optimizer: str) -> None:
    params, grads = draw(0), draw(1)

    def updating(build: Callable[[], Any]) -> Contestant:
        tx = build()
        state = tx.init(params)
        return lambda: lambda: jax.block_until_ready(tx.update(grads, state, params))

    contestants = {who: updating(build) for who, build in both(OPTIMIZERS[optimizer]).items()}
    rounds = 21 if tree_name == "200 leaves" else 5
    race("un-jitted update", f"{optimizer}, {tree_name}", contestants, rounds=rounds, at_most=0.5)


@pytest.mark.benchmark
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tree_name", ["200 leaves", "GPT-2 small"], indirect=True)
def test_the_lowered_program_is_no_larger(record: Any, abstract: Any, tree_name: str, optimizer: str) -> None:
    def size(build: Callable[[], Any]) -> int:
        tx = build()
        state = jax.eval_shape(tx.init, abstract)
        return len(jax.jit(step_of(tx)).lower(abstract, state, abstract).as_text())

    ours, theirs = (size(build) for build in both(OPTIMIZERS[optimizer]).values())
    case = f"{optimizer}, {tree_name}"
    record("StableHLO text", case, "Optax", ours, theirs, unit="characters", at_most=1.0)
