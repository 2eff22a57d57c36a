"""Trees shown to the inner transformation as one vector, or as real parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, example_grads, example_params, run

import gradxform as gx


@pytest.mark.parametrize("make", [lambda gx: gx.adam(0.1), lambda gx: gx.sgd(0.1, momentum=0.9)])
def test_flatten_as_in_optax(make: Any) -> None:
    params, grads = example_params(), example_grads(100)
    ours, theirs, plain = (
        run(tx, params, grads)[0] for tx in (gx.flatten(make(gx)), optax.flatten(make(optax)), make(gx))
    )
    assert_close(ours, theirs)
    assert_close(ours, plain)


def test_flatten_keeps_dtypes_and_names_the_leaf() -> None:
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((2, 2)), "c": jnp.zeros(0)}
    tx = gx.flatten(gx.adam(0.1))
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(lambda u: (u.dtype, u.shape), updates) == jax.tree.map(
        lambda p: (p.dtype, p.shape), params
    )
    with pytest.raises(TypeError, match=r"flatten: params\['b'\] has dtype int32"):
        tx.init({"a": jnp.ones(2), "b": jnp.arange(2)})
    with pytest.raises(TypeError, match="some leaves are real and some are complex"):
        tx.init({"a": jnp.ones(2), "b": jnp.ones(2) * 1j})
    empty, _ = tx.update({}, tx.init({}), {})
    assert empty == {}


def test_describe_and_hyperparams_look_inside() -> None:
    tx = gx.flatten(gx.adam(gx.tunable(0.1)))
    params = example_params()
    assert gx.get_hyperparams(tx.init(params))["learning_rate"] == np.float32(0.1)
    assert gx.get_hyperparams(tx.init(params), tx)["b1"] == 0.9
    text = str(gx.describe(tx, params))
    assert "flatten around" in text
    assert "  scale_by_adam(" in text


def test_split_real_and_imaginary_as_in_optax() -> None:
    params = {**example_params(jnp.complex64), "real": jnp.ones(2)}
    grads = [{**grad, "real": jnp.arange(2.0)} for grad in example_grads(100, jnp.complex64)]
    ours, _ = run(gx.split_real_and_imaginary(gx.adam(0.1)), params, grads)
    theirs, _ = run(optax.contrib.split_real_and_imaginary(optax.adam(0.1)), params, grads)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    real, _ = run(
        gx.adam(0.1), jax.tree.map(jnp.real, params), [jax.tree.map(jnp.real, grad) for grad in grads]
    )
    assert_close([jax.tree.map(jnp.real, update) for update in ours], real)


def test_without_parameters() -> None:
    grads = {"z": jnp.asarray([1.0 + 2.0j])}
    for tx in (gx.split_real_and_imaginary(gx.scale(2.0)), gx.flatten(gx.scale(2.0))):
        updates, _ = tx.update(grads, tx.init(grads))
        np.testing.assert_array_equal(updates["z"], [2.0 + 4.0j])


def test_the_error_names_the_tree_that_is_wrong() -> None:
    tx = gx.flatten(gx.scale(2.0))
    state = tx.init({"b": jnp.ones(2), "w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"flatten: grads\['w'\] has dtype int32"):
        tx.update({"b": None, "w": jnp.arange(2)}, state)
