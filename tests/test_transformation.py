"""The interface, and applying updates."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.transformation import accepted_keywords


def test_apply_updates() -> None:
    params = {
        "half": jnp.asarray([1.0, 2.0], jnp.bfloat16),
        "float": 1.5,
        "none": None,
        "frozen": jnp.ones(2),
        "complex": jnp.asarray(1j),
        "empty": jnp.zeros((0, 2)),
        "numpy": np.ones(2, np.float32),
        "count": jnp.arange(2),
    }
    updates = {
        "half": jnp.asarray([0.5, -1.0], jnp.float32),
        "float": jnp.asarray(-0.5),
        "none": None,
        "frozen": None,
        "complex": jnp.asarray(1.0 + 1j),
        "empty": jnp.zeros((0, 2)),
        "numpy": np.ones(2, np.float32),
        "count": None,
    }
    for apply in (gx.apply_updates, jax.jit(gx.apply_updates)):
        new = apply(params, updates)
        assert jax.tree.structure(new) == jax.tree.structure(params)
        for name in params:
            if name != "none":
                expected = (
                    params[name]
                    if updates[name] is None
                    else np.asarray(params[name]) + np.asarray(updates[name])
                )
                np.testing.assert_array_equal(np.asarray(new[name]), np.asarray(expected))
                assert jnp.result_type(new[name]) == jnp.result_type(params[name])


def test_apply_updates_equals_optax() -> None:
    params = {"w": jnp.asarray([1.0, 2.0], jnp.float16), "b": jnp.asarray(0.1)}
    updates = {"w": jnp.asarray([0.3, 1e-3]), "b": jnp.asarray(0.2)}
    ours, theirs = gx.apply_updates(params, updates), optax.apply_updates(params, updates)
    for name in params:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_updates_that_do_not_fit() -> None:
    params = {"a": {"w": jnp.ones((2, 1))}}
    with pytest.raises(ValueError, match=r"apply_updates: params\['a'\]\['w'\] has shape \(2, 1\).*\(1, 2\)"):
        gx.apply_updates(params, {"a": {"w": jnp.ones((1, 2))}})
    with pytest.raises(
        ValueError, match=r"apply_updates.*params\['a'\]\['w'\] has no counterpart in updates"
    ):
        gx.apply_updates(params, {"a": {}})
    with pytest.raises(ValueError, match=r"apply_updates.*updates\['b'\] has no counterpart in params"):
        gx.apply_updates(params, {**params, "b": jnp.ones(1)})


def test_accepted_keywords() -> None:
    def some(grads: Any, state: Any, params: Any = None, *, value: Any = None) -> None: ...
    def every(grads: Any, state: Any, params: Any = None, **extra: Any) -> None: ...
    def none(grads: Any, state: Any, params: Any = None, /) -> None: ...

    extra = {"value": 1, "loss": 2}
    assert accepted_keywords(some)(extra) == {"value": 1}
    assert accepted_keywords(every)(extra) == extra
    assert accepted_keywords(none)(extra) == {}
    assert accepted_keywords(partial(some))(extra) == {"value": 1}
    assert accepted_keywords(jax.jit(some))(extra) == {"value": 1}


def test_it_is_the_interface_that_optax_knows() -> None:
    for tx in (gx.adam(0.1), gx.chain(optax.scale(1.0), gx.scale(1.0)), gx.named_chain(("a", gx.scale(1.0)))):
        init, update = tx
        assert (init, update) == (tx.init, tx.update)
        assert tx._fields == optax.GradientTransformation._fields
        assert hash(tx) == hash(tx)
        assert isinstance(tx, gx.GradientTransformation)
