"""States from Optax and PyTorch and back: what goes on from them goes where they would have gone."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from benchmarks.test_catalogue import OPTIMIZERS
from catalogue import x64
from interop_torch import CASES, ORDER, STEPS, gradient, pull

import gradxform as gx
from gradxform.interop import from_optax, from_torch, to_optax, to_torch
from gradxform.storage.store import store

PARAMS = {
    "kernel": np.linspace(-1.0, 2.0, 12).reshape(4, 3),
    "layers": [np.array([1.5, -0.5, 0.2]), np.array([0.7])],
}


def labels(params: Any) -> Any:
    return {"kernel": "adam", "layers": ["momentum", "adam"]}


# Those whose states differ most: flags, counters, merged and nested parts, factored and shared numbers.
TWINS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda library: library.sgd(0.02, momentum=0.9),
    "optimistic": lambda library: library.optimistic_gradient_descent(0.05),
    "scheduled": lambda library: library.adamw(library.cosine_decay_schedule(0.05, 500)),
    "adafactor": lambda library: library.adafactor(0.05, min_dim_size_to_factor=2),
    "dog": lambda library: library.contrib.dog(0.5),
    "schedule_free": lambda library: library.contrib.schedule_free_sgd(0.05, warmup_steps=150),
    "accumulated": lambda library: library.MultiSteps(library.adam(0.05), 3),
    "partition": lambda library: library.multi_transform(
        {"adam": library.adam(0.05), "momentum": library.sgd(0.05, momentum=0.9)}, labels
    ),
    "tunable": lambda library: (
        gx.adam(gx.tunable(0.3)) if library is gx else optax.inject_hyperparams(optax.adam)(0.04)
    ),
}


def walker(library: Any, tx: Any) -> Callable[..., Any]:
    """A hundred steps on a disturbed quadratic."""

    def step(carry: Any, t: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda w: 0.5 * w + jnp.cos(t + jnp.arange(w.size).reshape(w.shape)), params)
        updates, state = tx.update(grads, state, params)
        return (library.apply_updates(params, updates), state), None

    return jax.jit(lambda params, state, t: jax.lax.scan(step, (params, state), t + jnp.arange(100.0))[0])


@pytest.mark.parametrize("name", TWINS)
def test_a_hundred_further_steps_as_optax(name: str) -> None:
    with x64():
        params = jax.tree.map(jnp.asarray, PARAMS)
        ours, theirs = TWINS[name](gx), TWINS[name](optax)
        walk, walk_theirs = walker(gx, ours), walker(optax, theirs)
        there, state = walk_theirs(params, theirs.init(params), 0)
        end, _ = walk_theirs(there, state, 100)
        # Neither of the two counts, and ours does.
        count = {"count": 100} if name in ("optimistic", "dog") else {}
        moved = from_optax(ours, state, there, **count)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), walk(there, moved, 100)[0], end
        )
        # Back, and on.
        back = to_optax(theirs, moved, there)
        assert jax.tree.structure(back) == jax.tree.structure(state)
        onward = walk_theirs(there, back, 100)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), onward, end)


NOT = {"noisy_sgd": "rng_key"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_array_of_optaxs_states_has_its_place(name: str) -> None:
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    ours, theirs = OPTIMIZERS[name](gx), OPTIMIZERS[name](optax)

    def drawn(leaf: Any) -> Any:
        if leaf.dtype == jnp.int32:  # counters, which begin at 0, or at 1
            return leaf + 7
        if leaf.dtype == bool:
            return jnp.zeros_like(leaf)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if leaf.dtype == jnp.float32 else leaf

    state = jax.tree.map(drawn, theirs.init(params))
    if name in NOT:
        with pytest.raises(
            ValueError, match=rf"the state given has {NOT[name]}, for which there is no place"
        ):
            from_optax(ours, state, params, count=7)
        return
    moved = from_optax(ours, state, params, count=7)
    assert jax.tree.structure(moved) == jax.tree.structure(ours.init(params))
    back = to_optax(theirs, moved, params, count=7)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for (path, before), after in zip(
        jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(back), strict=True
    ):
        if "ns_coeffs" not in jax.tree_util.keystr(path):  # constants are the code's
            np.testing.assert_array_equal(before, after, err_msg=jax.tree_util.keystr(path))


def test_what_does_not_fit_is_named() -> None:
    params = {"w": jnp.ones(3)}
    adam, momentum = optax.adam(0.1).init(params), optax.sgd(0.1, momentum=0.9).init(params)
    with pytest.raises(
        ValueError, match=r"from_optax: state\.slots\[0\]\.trace\['w'\] is not in the state given"
    ):
        from_optax(gx.sgd(0.1, momentum=0.9), adam, params)
    with pytest.raises(ValueError, match=r"the state given has trace\['w'\], for which there is no place"):
        from_optax(gx.sgd(0.1), momentum, params, count=3)
    with pytest.raises(ValueError, match=r"does not count its steps; pass count"):
        from_optax(gx.sgd(lambda count: 0.1, momentum=0.9), momentum, params)
    with pytest.raises(
        ValueError, match=r"slots\[0\]\.mu\['w'\] has shape \(2,\), and \(3,\) in the state given"
    ):
        from_optax(gx.adam(0.1), adam, {"w": jnp.ones(2)})
    twice = optax.chain(optax.trace(0.9), optax.trace(0.5)).init(params)
    with pytest.raises(ValueError, match=r"there are 1 arrays like state.slots\[0\].trace\['w'\], and 2 in"):
        from_optax(gx.trace(0.9), twice, params, count=1)
    apart = (adam[0], adam[0]._replace(count=jnp.int32(4)))
    with pytest.raises(ValueError, match=r"has counted \[0, 4\] steps"):
        from_optax(gx.sgd(lambda count: 0.1), apart, params)


def test_a_stored_state_is_read_as_arrays() -> None:
    params = {"w": jnp.linspace(-1.0, 1.0, 64)}
    tx = store(gx.trace(0.9), "bfloat16", min_size=1)
    _, state = tx.update(params, tx.init(params))
    moved = to_optax(optax.trace(0.9), state, params)
    np.testing.assert_allclose(moved.trace["w"], params["w"], rtol=2**-7)


def test_names_of_parameters_are_no_fields() -> None:
    params = {"count": jnp.ones(2), "mu": [jnp.ones(3), jnp.zeros(())]}
    _, state = optax.adam(0.1).update(params, optax.adam(0.1).init(params))
    moved = from_optax(gx.adam(0.1), state, params)
    jax.tree.map(np.testing.assert_array_equal, moved.slots[0].mu, state[0].mu)
    assert moved.count == 1
    alone, leaf = optax.adam(0.1), jnp.ones(3)
    _, state = alone.update(leaf, alone.init(leaf))
    np.testing.assert_array_equal(from_optax(gx.adam(0.1), state, leaf).slots[0].nu, state[0].nu)


# PyTorch

WAYS = json.loads(Path(__file__).with_name("interop_torch.json").read_text())["ways"]
NUMBERS = {name: ORDER.index(name) for name in sorted(ORDER)}

SAME: dict[str, Any] = {
    "gradient descent": gx.sgd(0.05),
    "momentum": gx.sgd(0.01, momentum=0.9),
    "nesterov": gx.sgd(0.01, momentum=0.9, nesterov=True),
    "adam": gx.adam(0.05, b1=0.8, b2=0.99),
    "adamw": gx.adamw(0.05, weight_decay=0.1),
    "adagrad": gx.adagrad(0.1, eps=1e-20),
    "rmsprop": gx.rmsprop(0.05, decay=0.9, eps_in_sqrt=False),
    "rmsprop, centered, momentum": gx.rmsprop(
        0.01, decay=0.95, eps_in_sqrt=False, centered=True, momentum=0.8
    ),
    "adadelta": gx.adadelta(1.0, rho=0.9, eps=1e-6),
}


class Tensor:
    """As much of one as is needed."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    def detach(self) -> "Tensor":
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.array


def state_dict(stop: dict[str, Any]) -> dict[str, Any]:
    """The dictionary as PyTorch had it."""
    state = {
        int(number): {field: Tensor(value) for field, value in of_weight.items()}
        for number, of_weight in stop["state"].items()
    }
    return {"state": state, "param_groups": stop["param_groups"]}


def plain(params: Any) -> Any:
    return {name: jnp.asarray(array) for name, array in params.items()}


def test_every_way_has_its_twin() -> None:
    assert SAME.keys() == CASES.keys() == WAYS.keys()


@pytest.mark.parametrize("name", SAME)
def test_a_hundred_further_steps_as_pytorch(name: str) -> None:
    tx, (halfway, end) = SAME[name], WAYS[name]
    counts = tx.init(plain(halfway["params"])).count is not None

    def step(carry: Any, disturbance: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda w: gradient(w, disturbance).astype(w.dtype), params)
        updates, state = tx.update(grads, state, params)
        return (gx.apply_updates(params, updates), state), None

    pulls = np.stack([pull(t) for t in range(STEPS, 2 * STEPS)])
    with x64():
        for dtype, rtol in ((jnp.float64, 1e-9), (jnp.float32, 1e-5)):
            params = {name: jnp.asarray(array, dtype) for name, array in halfway["params"].items()}
            state = from_torch(tx, state_dict(halfway), params, numbers=NUMBERS)
            assert state.count == STEPS if counts else state.count is None

            def written(state: Any, steps: int, params: Any = params) -> Any:
                count = None if counts else steps
                return to_torch(tx, state, state_dict(halfway), params, numbers=NUMBERS, count=count)

            # What is written back at once is what was read.
            compare(written(state, STEPS), halfway, 1e-6)
            (params, state), _ = jax.jit(partial(jax.lax.scan, step))((params, state), pulls)
            for leaf, array in end["params"].items():
                np.testing.assert_allclose(params[leaf], array, rtol=rtol, atol=0.1 * rtol)
            compare(written(state, 2 * STEPS), end, 10 * rtol)


def compare(written: dict[str, Any], stop: dict[str, Any], rtol: float) -> None:
    """Whether a dictionary for PyTorch is the one that PyTorch has written."""
    assert written["param_groups"] == stop["param_groups"]
    expected = {int(number): arrays for number, arrays in stop["state"].items()} or {0: {}, 1: {}}
    assert written["state"].keys() == expected.keys()
    for number, arrays in expected.items():
        found = written["state"][number]
        assert found.keys() == arrays.keys()
        for field, array in arrays.items():
            scale = np.max(np.abs(array))
            np.testing.assert_allclose(found[field], array, rtol=0, atol=rtol * scale)
            assert found[field].flags.writeable


def test_what_does_not_fit_pytorch_is_named() -> None:
    stop = WAYS["adam"][0]
    params = plain(stop["params"])
    with pytest.raises(
        ValueError, match=r"slots\[0\]\.mu\['bias'\] has shape \(3,\), and \(2, 3\) in the state"
    ):
        from_torch(gx.adam(0.1), state_dict(stop), params)
    with pytest.raises(ValueError, match=r"numbers must have each of 0 to 1 once.* has \[1, 1\]"):
        from_torch(gx.adam(0.1), state_dict(stop), params, numbers={"bias": 1, "kernel": 1})
    with pytest.raises(ValueError, match=r"there are 1 parameters, and PyTorch's optimizer has 2"):
        from_torch(gx.adam(0.1), state_dict(stop), {"bias": params["bias"]})
    with pytest.raises(
        ValueError, match=r"state\.slots\[0\]\.sum_of_squares\['bias'\] is not in the state given"
    ):
        from_torch(gx.adagrad(0.1), state_dict(stop), params, numbers=NUMBERS)
    with pytest.raises(ValueError, match="none of SGD, Adam"):
        from_torch(gx.rprop(0.1), {"state": {}, "param_groups": [{"etas": (0.5, 1.2)}]}, params)
    with pytest.raises(ValueError, match="does not count its steps"):
        from_torch(gx.sgd(lambda count: 0.1), state_dict(WAYS["gradient descent"][0]), params)
    amsgrad = state_dict(stop)
    amsgrad["state"][0]["max_exp_avg_sq"] = 1.0
    with pytest.raises(ValueError, match=r"Adam has 'max_exp_avg_sq' for params\['kernel'\]"):
        from_torch(gx.amsgrad(0.1), amsgrad, params, numbers=NUMBERS)
    with pytest.raises(
        ValueError, match=r"Adam needs 'exp_avg' for params\['bias'\], but our state has no 'mu'"
    ):
        to_torch(gx.sgd(0.1), gx.sgd(0.1).init(params), state_dict(stop), params, numbers=NUMBERS, count=1)
    tx = gx.chain(gx.trace(0.9), gx.adam(0.1))
    with pytest.raises(ValueError, match=r"has trace\['bias'\], for which there is no place"):
        to_torch(tx, tx.init(params), state_dict(stop), params, numbers=NUMBERS)
