"""L-BFGS, against Optax and against the dense matrices that it stands for."""

from collections.abc import Callable
from typing import Any

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, x64

import gradxform as gx
from gradxform.optimizers.quasi_newton import lbfgs
from gradxform.primitives.quasi_newton import scale_by_lbfgs
from gradxform.wrappers import linesearch

Loss = Callable[[Any], Any]


def rosenbrock(params: Any) -> Any:
    x = jnp.concatenate([params["head"], params["tail"][None]])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(params: Any) -> Any:
    return jnp.sum(jnp.array([1.0, 3.0]) * params["head"] ** 2) / 2 + (params["tail"] - 3) ** 2


def least_squares(params: Any) -> Any:
    rows = jnp.cos(jnp.arange(24.0)).reshape(8, 3)
    prediction = rows[:, :2] @ params["head"] + rows[:, 2] * params["tail"]
    return jnp.mean((prediction - jnp.sin(jnp.arange(8.0))) ** 2)


def start(dtype: Any = jnp.float32) -> Any:
    return {"head": jnp.asarray([-1.2, 1.0], dtype), "tail": jnp.asarray(0.5, dtype)}


def descend(tx: Any, loss: Loss, params: Any, steps: int = 100) -> tuple[Any, Any]:
    """The parameters of every step, and the last state."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        params = gx.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(
        lambda params: jax.lax.scan(step, (params, tx.init(params)), None, length=steps)
    )(params)
    return path, state


CASES: dict[str, tuple[Loss, Callable[[Any, Any], Any]]] = {
    "default": (rosenbrock, lambda lbfgs, _: lbfgs()),
    "short_memory": (rosenbrock, lambda lbfgs, _: lbfgs(memory_size=1)),
    "from_identity": (rosenbrock, lambda lbfgs, _: lbfgs(memory_size=3, scale_init_precond=False)),
    "default_quadratic": (quadratic, lambda lbfgs, _: lbfgs()),
    "no_search": (least_squares, lambda lbfgs, _: lbfgs(0.1, 5, linesearch=None)),
    "schedule": (quadratic, lambda lbfgs, _: lbfgs(lambda count: 1 / (count + 2), linesearch=None)),
    "backtracking": (
        rosenbrock,
        lambda lbfgs, made: lbfgs(linesearch=made.scale_by_backtracking_linesearch(20, store_grad=True)),
    ),
}


@pytest.mark.parametrize("case", [case for case in CASES if case != "default_quadratic"])
def test_optax_takes_the_same_steps(case: str) -> None:
    loss, make = CASES[case]
    with x64():
        path, state = descend(make(lbfgs, linesearch), loss, start(jnp.float64))
        expected, _ = descend(make(optax.lbfgs, optax), loss, start(jnp.float64))
        # With one pair the way is chaotic, and the last digit grows from step to step.
        steps = 45 if case == "short_memory" else 100
        first, theirs = jax.tree.map(lambda x: x[:steps], (path, expected))
        chex.assert_trees_all_close(first, theirs, rtol=1e-7, atol=1e-9)
        assert state[0].count == 100


# In float32 a start one digit off takes Optax itself elsewhere after a dozen steps in Rosenbrock's valley.
@pytest.mark.parametrize(
    ("case", "steps"), [("default", 10), ("backtracking", 10), ("default_quadratic", 100), ("no_search", 100)]
)
def test_optax_takes_the_same_steps_in_float32(case: str, steps: int) -> None:
    loss, make = CASES[case]
    path, _ = descend(make(lbfgs, linesearch), loss, start(), steps)
    expected, _ = descend(make(optax.lbfgs, optax), loss, start(), steps)
    assert_close(path, expected, rtol=1e-5, atol=1e-5)


def test_memory_is_that_of_optax() -> None:
    rng = np.random.default_rng(0)
    points, grads = rng.normal(size=(2, 8, 4)).astype(np.float32)
    ours, theirs = scale_by_lbfgs(3), optax.scale_by_lbfgs(3)
    state, expected = ours.init(points[0]), theirs.init(jnp.asarray(points[0]))
    for point, grad in zip(points, grads, strict=True):
        update, state = ours.update(grad, state, point)
        same, expected = theirs.update(jnp.asarray(grad), expected, jnp.asarray(point))
        np.testing.assert_allclose(update, same, rtol=2e-5, atol=1e-5)
    assert state._fields == expected._fields
    for field in state._fields:
        np.testing.assert_allclose(getattr(state, field), getattr(expected, field), rtol=1e-5, atol=1e-6)


def test_direction_is_that_of_the_dense_matrices() -> None:
    with x64():
        rng = np.random.default_rng(1)
        points, curvature = rng.normal(size=(5, 3)), np.diag([1.0, 4.0, 9.0])
        grads = points @ curvature
        tx, memory = scale_by_lbfgs(2), 2
        state = tx.init(points[0])
        for point, grad in zip(points, grads, strict=True):
            direction, state = tx.update(grad, state, point)
        pairs = list(zip(np.diff(points, axis=0), np.diff(grads, axis=0), strict=True))[-memory:]
        s, y = pairs[-1]
        inverse = np.eye(3) * (s @ y) / (y @ y)
        for s, y in pairs:
            left = np.eye(3) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
        np.testing.assert_allclose(direction, inverse @ grads[-1], rtol=1e-12)
        np.testing.assert_allclose(inverse @ y, s, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_secant_equation(dtype: Any) -> None:
    """With no gradient before, the difference is the gradient itself: H g = s."""
    y, s = jnp.asarray([2.0, -1.0], dtype), jnp.asarray([1.0, 0.5], dtype)
    if dtype == jnp.complex64:
        y, s = y + 1j, s + 0.5j
    tx = scale_by_lbfgs(4)
    _, state = tx.update(jnp.zeros_like(y), tx.init(s), jnp.zeros_like(s))
    np.testing.assert_allclose(tx.update(y, state, s)[0], s, rtol=1e-5)


def test_complex_parameters_descend_like_their_parts() -> None:
    def loss(z: Any) -> Any:
        return jnp.sum(jnp.array([1.0, 5.0]) * jnp.abs(z - (1 + 2j)) ** 2)

    def step(z: Any, state: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(z)
        update, state = tx.update(jnp.conj(grad), state, z, value=value, grad=grad, value_fn=loss)
        return z + update, state

    tx, z = lbfgs(), jnp.asarray([3.0 + 1j, -1j])
    state, step = tx.init(z), jax.jit(step)
    assert state[-1].value.dtype == jnp.float32
    for _ in range(12):
        z, state = step(z, state)
    np.testing.assert_allclose(z, 1 + 2j, atol=1e-4)


def test_state_keeps_its_types() -> None:
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "frozen": None}

    def loss(params: Any) -> Any:
        return jnp.sum((params["w"].astype(jnp.float32) - 2) ** 2)

    tx = lbfgs(memory_size=2)
    shapes = jax.eval_shape(lambda: params)
    state = tx.init(shapes)
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), state)
    for _ in range(3):
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        assert updates["frozen"] is None
        assert updates["w"].dtype == jnp.bfloat16
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), state) == kinds
        params = gx.apply_updates(params, updates)
    assert state[0].diff_params_memory["w"].dtype == jnp.float32
    assert loss(params) == 0


def test_missing_and_zero_gradients_leave_the_parameters() -> None:
    params = {"w": jnp.ones(2), "b": jnp.ones(3)}
    tx = scale_by_lbfgs(2)
    state = tx.init(params)
    for grads in ({"w": jnp.zeros(2), "b": None}, {"w": jnp.ones(2), "b": None}):
        updates, state = tx.update(grads, state, params)
        assert updates["b"] is None
        assert jnp.isfinite(updates["w"]).all()
    path, state = descend(lbfgs(), lambda p: 0 * jnp.sum(p["w"]), params, 4)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[-1], path), params)
    chex.assert_tree_all_finite((path, state))
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_vmap_and_pickle() -> None:
    tx = cloudpickle.loads(cloudpickle.dumps(lbfgs()))
    starts = {"head": jnp.asarray([[-1.0, 1.0], [2.0, 0.3]]), "tail": jnp.asarray([0.5, -1.0])}
    paths, _ = jax.vmap(lambda params: descend(tx, quadratic, params, 15))(starts)
    for i in range(2):
        path, _ = descend(tx, quadratic, jax.tree.map(lambda x, i=i: x[i], starts), 15)
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], paths), path, atol=1e-5)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(
        ValueError, match="scale_by_lbfgs: memory_size must be an integer of at least 1, got 0"
    ):
        lbfgs(memory_size=0)
    tx = scale_by_lbfgs()
    state = tx.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"needs the parameters: call update\(grads, state, params\)"):
        tx.update({"w": jnp.ones(2)}, state)
    with pytest.raises(ValueError, match=r"grads\['w'\] has shape \(3,\)"):
        tx.update({"w": jnp.ones(3)}, state, {"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"grads\['w'\] has dtype int32"):
        tx.update({"w": jnp.ones(2, jnp.int32)}, state, {"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"needs value: call update\(grads, state, params, value="):
        lbfgs().update(jnp.ones(2), lbfgs().init(jnp.ones(2)), jnp.ones(2))
