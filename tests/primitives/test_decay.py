from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx


def _decayed(params: Any, grads: Any, mask: Any) -> Any:
    """NumPy's answer for a decay of 1/2 and a full mask."""
    return jax.tree.map(lambda p, g, on: g + np.float32(0.5) * p if on else g, params, grads, mask)


MASKS = {
    "none": (None, {"kernel": True, "layers": [True, True]}),
    "tree": ({"kernel": True, "layers": [False, True]}, {"kernel": True, "layers": [False, True]}),
    "prefix": ({"kernel": False, "layers": True}, {"kernel": False, "layers": [True, True]}),
    "one for all": (False, {"kernel": False, "layers": [False, False]}),
    "function": (
        lambda params: jax.tree.map(lambda p: jnp.ndim(p) > 1, params),
        {"kernel": True, "layers": [False, False]},
    ),
    "function to a prefix": (
        lambda params: {"kernel": True, "layers": False},
        {"kernel": True, "layers": [False, False]},
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(params: Any, send: Any, grads: Any, assert_trees_close: Any, kind: str) -> None:
    mask, full = MASKS[kind]
    ours, theirs = send(gx.add_decayed_weights(0.5, mask), optax.add_decayed_weights(0.5, mask))
    assert_trees_close(ours, _decayed(params, grads, full), rtol=1e-6, atol=1e-7)
    assert_trees_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_module_that_can_be_called_is_a_mask_not_a_function() -> None:
    class Layer(equinox.Module):
        weight: Any
        bias: Any

        def __call__(self, x: Any) -> Any:
            raise AssertionError("the mask was called")

    params = Layer(jnp.full(2, 4.0), jnp.full(2, 4.0))
    tx = gx.add_decayed_weights(0.5, mask=Layer(weight=True, bias=False))
    updates, _ = tx.update(Layer(jnp.ones(2), jnp.ones(2)), tx.init(params), params)
    np.testing.assert_array_equal([updates.weight, updates.bias], [[3.0, 3.0], [1.0, 1.0]])


def test_a_missing_gradient_stays_missing() -> None:
    params = {"a": jnp.asarray(2.0), "b": None}
    tx = gx.add_decayed_weights(0.5)
    updates, _ = tx.update({"a": jnp.asarray(1.0), "b": None}, tx.init(params), params)
    assert updates == {"a": 2.0, "b": None}


def test_decoupled_decay_shrinks_geometrically() -> None:
    # Without a gradient, w_t = (1 - a l)^t w_0.
    tx = gx.chain(gx.add_decayed_weights(0.1), gx.scale_by_learning_rate(0.5))
    w = jnp.asarray(2.0)
    state = tx.init(w)
    for _ in range(10):
        updates, state = tx.update(jnp.zeros(()), state, w)
        w = gx.apply_updates(w, updates)
    assert float(w) == pytest.approx(2 * (1 - 0.05) ** 10, rel=1e-6)


def test_errors_say_what_to_do(params: Any) -> None:
    with pytest.raises(ValueError, match=r"weight_decay must be at least 0, got -0\.5"):
        gx.add_decayed_weights(-0.5)
    tx = gx.add_decayed_weights(0.5)
    with pytest.raises(ValueError, match="add_decayed_weights needs the parameters: call update"):
        tx.update(params, tx.init(params))
    for wrong in ({"kernel": True}, {"kernel": True, "layers": [True, True], "more": True}):
        with pytest.raises(ValueError, match=r"add_decayed_weights: .*its mask"):
            gx.add_decayed_weights(0.5, wrong).init(params)
    with pytest.raises(TypeError, match=r"its mask has 1 for params\['kernel'\]"):
        gx.add_decayed_weights(0.5, {"kernel": 1, "layers": True}).init(params)
