"""Real clients: each trains a tiny model in its own loop, with ours and with Optax's, to one end."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx

STEPS = 5
X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
Y = jnp.sin(X.sum(axis=1, keepdims=True))


def _ours() -> Any:
    return gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(),
        gx.add_decayed_weights(0.01, mask=lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params)),
        gx.scale_by_learning_rate(gx.cosine_decay_schedule(0.1, 10)),
    )


def _theirs() -> Any:
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.01, mask=lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params)),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 10)),
    )


def _mean_square(prediction: Any) -> Any:
    return jnp.mean((prediction - Y) ** 2)


def train_nnx(tx: Any) -> tuple[Any, list[float]]:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.tanh(self.hidden(x)))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        loss, grads = nnx.value_and_grad(lambda model: _mean_square(model(X)))(model)
        optimizer.update(model, grads)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(STEPS)]
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), losses


def train_linen(tx: Any) -> tuple[Any, list[float]]:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))

    model = Model()
    params = model.init(jax.random.key(0), X)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state: TrainState) -> Any:
        loss, grads = jax.value_and_grad(lambda p: _mean_square(state.apply_fn({"params": p}, X)))(
            state.params
        )
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(STEPS):
        state, loss = step(state)
        losses.append(float(loss))
    assert int(state.step) == STEPS
    return state.params, losses


def train_equinox(tx: Any) -> tuple[Any, list[float]]:
    class Model(eqx.Module):
        hidden: eqx.nn.Linear
        out: eqx.nn.Linear
        activation: Callable[..., Any]
        calls: int

        def __call__(self, x: Any) -> Any:
            return self.out(self.activation(self.hidden(x)))

    first, second = jax.random.split(jax.random.key(0))
    model = Model(eqx.nn.Linear(3, 4, key=first), eqx.nn.Linear(4, 1, key=second), jnp.tanh, 0)
    # A module that is called by accident, as a schedule or a mask is, would fail: it takes one row.
    params = eqx.filter(model, eqx.is_inexact_array)
    assert callable(params)
    state = tx.init(params)

    # The transformation itself is an argument, which Equinox takes apart and puts together again.
    @eqx.filter_jit
    def step(tx: Any, model: Any, state: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(lambda model: _mean_square(jax.vmap(model)(X)))(model)
        assert grads.activation is None
        assert grads.calls is None
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(STEPS):
        model, state, loss = step(tx, model, state)
        losses.append(float(loss))
    return eqx.filter(model, eqx.is_inexact_array), losses


def train_haiku(tx: Any) -> tuple[Any, list[float]]:
    model = hk.without_apply_rng(
        hk.transform(lambda x: hk.Sequential([hk.Linear(4), jnp.tanh, hk.Linear(1)])(x))
    )
    params = model.init(jax.random.key(0), X)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda p: _mean_square(model.apply(p, X)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(STEPS):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return params, losses


@pytest.mark.parametrize("train", [train_nnx, train_linen, train_equinox, train_haiku])
def test_a_client_cannot_tell_the_difference(train: Any) -> None:
    params, losses = train(_ours())
    expected, expected_losses = train(_theirs())
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert losses[-1] < losses[0]
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_inside_a_client() -> None:
    """Set from outside while a client holds the state."""
    model = nn.Dense(1, use_bias=False)
    params = model.init(jax.random.key(0), X)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=gx.sgd(gx.tunable(0.5)))
    assert gx.get_hyperparams(state.opt_state) == {"learning_rate": 0.5}
    state = state.replace(opt_state=gx.set_hyperparams(state.opt_state, learning_rate=0.25))
    after = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, params))
    np.testing.assert_allclose(after.params["kernel"], params["kernel"] - 0.25, rtol=1e-6)

    # Of the whole train state, just as well.
    assert gx.get_hyperparams(after) == {"learning_rate": 0.25}
    assert gx.get_hyperparams(gx.set_hyperparams(after, learning_rate=1.0)) == {"learning_rate": 1.0}


def test_the_learning_rate_inside_nnx() -> None:
    model = nnx.Linear(3, 1, use_bias=False, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, gx.sgd(gx.tunable(0.5)), wrt=nnx.Param)
    before = np.asarray(model.kernel[...])
    np.testing.assert_array_equal(gx.get_hyperparams(optimizer.opt_state)["learning_rate"], 0.5)
    optimizer.opt_state = gx.set_hyperparams(optimizer.opt_state, learning_rate=0.25)
    _, grads = nnx.value_and_grad(lambda model: jnp.sum(model(jnp.ones((1, 3)))))(model)
    optimizer.update(model, grads)
    np.testing.assert_allclose(model.kernel[...], before - 0.25, rtol=1e-6)


def test_equinox_masks() -> None:
    """A mask that is itself a callable module, and one made by a function over a tree with None leaves."""
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    weights = jax.tree.map(lambda p: p.ndim > 1, params)
    for mask in (weights, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)):
        tx = gx.add_decayed_weights(0.5, mask=mask)
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates.layers[0].weight, 1.5 * params.layers[0].weight, rtol=1e-6)
        np.testing.assert_array_equal(updates.layers[0].bias, params.layers[0].bias)
