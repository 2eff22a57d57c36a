"""The whole catalogue

Every optimizer that Optax has too, with its defaults, on 200 leaves. *First trace*:
`jax.jit(tx.update).trace` of a newly built optimizer after `jax.clear_caches()`. *Compiled step*: update and
its addition to the parameters, 20 times.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from benchmarks.races import both

RATE = 1e-3
OF_A_RATE = (
    "sgd", "optimistic_gradient_descent", "sign_sgd", "signum", "rprop", "lion", "adagrad",
    "rmsprop", "adadelta", "adam", "adamw", "nadam", "nadamw", "adamax", "adamaxw", "amsgrad", "radam",
    "adabelief", "yogi", "adan", "novograd", "optimistic_adam_v2", "lars", "lamb", "fromage", "adafactor",
    "sm3", "contrib.ademamix", "contrib.simplified_ademamix", "contrib.adopt", "contrib.acprop",
    "contrib.muon", "contrib.galore", "contrib.dog", "contrib.dowg", "contrib.prodigy",
    "contrib.dadapt_adamw", "contrib.cocob", "contrib.momo", "contrib.momo_adam",
    "contrib.schedule_free_sgd", "contrib.schedule_free_adamw", "contrib.madgrad", "contrib.sophia",
)  # fmt: skip


def _named(name: str) -> Callable[[Any], Any]:
    def make(library: Any) -> Any:
        *module, function = name.split(".")
        return getattr(library.contrib if module else library, function)(RATE)

    return make


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {name.split(".")[-1]: _named(name) for name in OF_A_RATE}
OPTIMIZERS["momentum"] = lambda library: library.sgd(RATE, momentum=0.9, nesterov=True)
OPTIMIZERS["noisy_sgd"] = lambda library: library.noisy_sgd(RATE, key=0)
OPTIMIZERS["polyak_sgd"] = lambda library: library.polyak_sgd()
OPTIMIZERS["mechanize"] = lambda library: library.contrib.mechanize(library.adam(RATE))
OPTIMIZERS["lbfgs"] = lambda library: library.lbfgs()

each = pytest.mark.parametrize("optimizer", OPTIMIZERS)
layers = pytest.mark.parametrize("tree_name", ["200 leaves"], indirect=True)


def _bowl(params: Any, obj_fn: Any = None) -> Any:
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def _builders(optimizer: str) -> dict[str, Callable[[], Any]]:
    """Both libraries' own, told all that any optimizer asks for."""

    def make(library: Any) -> Any:
        tx = library.with_extra_args_support(OPTIMIZERS[optimizer](library))

        def update(grads: Any, state: Any, params: Any) -> Any:
            known = {"value": jnp.float32(1), "grad": grads, "value_fn": _bowl, "obj_fn": _bowl}
            return tx.update(grads, state, params, **known)

        return library.GradientTransformation(tx.init, update)

    return both(make)


@pytest.mark.benchmark
@layers
@each
def test_first_trace(race: Any, tracing: Any, optimizer: str) -> None:
    contestants = {who: tracing(build) for who, build in _builders(optimizer).items()}
    race("first trace", optimizer, contestants, rounds=5, at_most=1.0)


@pytest.mark.benchmark
@layers
@each
def test_compiled_step(race: Any, stepping: Any, optimizer: str) -> None:
    contestants = {who: stepping(build, 20) for who, build in _builders(optimizer).items()}
    race("compiled step", f"{optimizer} (× 20)", contestants, rounds=15, at_most=1.05)
