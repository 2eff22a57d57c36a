"""Masks, labels and frozen leaves, against Optax and in what users of Optax ran into."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, example_grads, example_params, run

import gradxform as gx

PARAMS = {
    "encoder": {"kernel": np.full((2, 3), 0.5, np.float32), "bias": np.full(3, -1.0, np.float32)},
    "decoder": {"kernel": np.full((3, 2), 2.0, np.float32)},
}
LABELS = {"encoder": {"kernel": "slow", "bias": "fast"}, "decoder": "fast"}


def grads(steps: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS) for _ in range(steps)]


def same_as(ours: Any, theirs: Any, steps: int = 100) -> None:
    each, params = grads(steps), PARAMS

    def scanned(tx: Any) -> Any:
        def step(state: Any, grad: Any) -> Any:
            update, state = tx.update(grad, state, params)
            return state, update

        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        return jax.jit(lambda: jax.lax.scan(step, tx.init(params), stacked)[1])()

    assert_close(scanned(ours), scanned(theirs), rtol=1e-5, atol=1e-7)


def halving(count: Any) -> Any:
    return 0.1 / (count + 1.0)


def build(library: Any, kind: str) -> Any:
    bias = {"encoder": {"kernel": False, "bias": True}, "decoder": False}
    if kind == "masked chain":
        inner = library.chain(library.clip_by_global_norm(0.5), library.adam(halving))
        return library.masked(inner, bias)
    if kind == "prefix":
        return library.masked(library.sgd(0.1, momentum=0.9), {"encoder": True, "decoder": False})
    if kind == "function":
        return library.masked(library.adam(0.1), lambda p: jax.tree.map(lambda x: x.ndim == 1, p))
    if kind == "named chain":
        inner = library.named_chain(("clip", library.clip(0.3)), ("step", library.adam(0.1)))
        return library.masked(inner, bias)
    if kind == "partition":
        return library.partition(
            {"fast": library.adam(0.1), "slow": library.chain(library.clip(0.3), library.sgd(halving))},
            LABELS,
        )
    if kind == "multi_transform":
        return library.multi_transform({"slow": library.set_to_zero(), "fast": library.sgd(1.0)}, LABELS)
    if kind == "freeze":
        return library.chain(library.adam(0.1), library.freeze(bias))
    if kind == "selective_transform":
        return library.selective_transform(library.adam(0.1), freeze_mask=bias)
    if kind == "partition in a mask":
        inner = library.partition(
            {"slow": library.sgd(0.1), "fast": library.adam(0.2)}, lambda _: {**LABELS, "decoder": "slow"}
        )
        return library.masked(inner, {"encoder": True, "decoder": False})
    assert kind == "mask in a mask"
    inner = library.masked(library.adam(0.1), lambda p: jax.tree.map(lambda x: x.ndim == 2, p))
    return library.masked(library.chain(inner, library.scale(0.5)), {"encoder": True, "decoder": False})


@pytest.mark.parametrize(
    "kind",
    [
        "masked chain",
        "prefix",
        "function",
        "named chain",
        "partition",
        "multi_transform",
        "freeze",
        "selective_transform",
        "mask in a mask",
    ],
)
def test_optax_has_the_same(kind: str) -> None:
    same_as(build(gx, kind), build(optax, kind))


def test_parts_of_optax_under_our_mask() -> None:
    mask = {"encoder": {"kernel": False, "bias": True}, "decoder": True}
    inner = optax.chain(optax.adam(0.1), optax.add_decayed_weights(0.1))
    same_as(gx.masked(inner, mask), optax.masked(inner, mask))
    labels = {"fast": optax.adam(0.1), "slow": gx.sgd(0.1)}
    same_as(gx.partition(labels, LABELS), optax.partition({**labels, "slow": optax.sgd(0.1)}, LABELS))


def test_masked_rules_merge_into_one_state_without_slots_for_the_others() -> None:
    tx = gx.chain(gx.clip(1.0), build(gx, "partition"), build(gx, "partition in a mask"))
    assert isinstance(tx.init(PARAMS), gx.LiftState)
    state = gx.masked(gx.trace(0.9), {"encoder": False, "decoder": True}).init(PARAMS)
    assert [leaf.shape for leaf in jax.tree.leaves(state.slots)] == [(3, 2)]


def test_a_leaf_that_no_rule_sees_goes_through_untouched() -> None:
    tx = gx.masked(gx.adam(0.1), {"encoder": True, "decoder": False})
    (grad,) = grads(1)
    grad["decoder"]["kernel"] = np.full((3, 2), np.nan, np.float32)
    updates, _ = tx.update(grad, tx.init(PARAMS), PARAMS)
    assert updates["decoder"]["kernel"] is grad["decoder"]["kernel"]
    assert np.isfinite(updates["encoder"]["kernel"]).all()


def test_a_frozen_leaf_rests_even_without_a_finite_gradient() -> None:
    tx = gx.selective_transform(gx.adam(0.1), freeze_mask={"encoder": False, "decoder": True})
    (grad,) = grads(1)
    grad["decoder"]["kernel"] = np.full((3, 2), np.nan, np.float32)
    updates, state = tx.update(grad, tx.init(PARAMS), PARAMS)
    assert (np.asarray(updates["decoder"]["kernel"]) == 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_an_inner_partition_needs_labels_only_where_the_outer_one_sends_it() -> None:
    """optax #271: the inner labels say nothing of the leaves that belong to another transformation."""
    inner = gx.partition(
        {"kernel": gx.sgd(1.0), "bias": gx.sgd(0.1)},
        lambda params: {
            "encoder": {"kernel": "kernel", "bias": "bias"},
            "decoder": jax.tree.map(lambda _: "no label", params["decoder"]),
        },
    )
    tx = gx.partition({"inner": inner, "outer": gx.sgd(0.5)}, {"encoder": "inner", "decoder": "outer"})
    ones = jax.tree.map(np.ones_like, PARAMS)
    updates, state = tx.update(ones, tx.init(PARAMS), PARAMS)
    assert isinstance(state, gx.LiftState)
    expected = {"encoder": {"kernel": -1.0, "bias": -0.1}, "decoder": {"kernel": -0.5}}
    assert_close(updates, jax.tree.map(lambda rate, one: np.float32(rate) * one, expected, ones))


@pytest.mark.parametrize(
    ("tx", "error", "words"),
    [
        (lambda: gx.partition({"fast": gx.sgd(1.0)}, LABELS), ValueError,
         r"params\['encoder'\]\['kernel'\] has the label 'slow'.*there are 'fast'"),
        (lambda: gx.partition({"fast": gx.sgd(1.0)}, {"encoder": "fast"}), ValueError,
         r"the parameters\['decoder'\]\['kernel'\] has no counterpart in param_labels"),
        (lambda: gx.masked(gx.sgd(1.0), {"encoder": 1, "decoder": True}), TypeError,
         r"mask has 1 for params\['encoder'\]\['bias'\]"),
        (lambda: gx.masked(optax.sgd(1.0), {"encoder": True}), ValueError, r"\['decoder'\]"),
        (lambda: gx.masked(gx.masked(gx.sgd(1.0), {"encoder": True}), {"encoder": True, "decoder": True}),
         ValueError, r"\['decoder'\]"),
        (lambda: gx.partition({}, LABELS), ValueError, "no transformations"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tx: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tx().init(PARAMS)


class Layer(eqx.Module):
    """A module that can be called, as parameters, masks and labels are in Equinox."""

    weight: Any
    bias: Any

    def __call__(self, *_: Any) -> Any:
        raise AssertionError("a pytree was called")


def test_callable_pytrees_are_never_called() -> None:
    """optax #1373, #913: masks, labels and parameters that are modules."""
    params = Layer(jnp.ones((2, 2)), jnp.ones(2))
    mask, labels = Layer(True, False), Layer("fast", "slow")
    for tx in (
        gx.masked(gx.adam(0.1), mask),
        gx.masked(optax.sgd(0.1), mask),
        gx.partition({"fast": gx.adam(0.1), "slow": gx.set_to_zero()}, labels),
        gx.selective_transform(gx.adam(0.1), freeze_mask=Layer(False, True)),
        gx.chain(gx.adam(0.1), gx.freeze(Layer(False, True))),
    ):
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates.weight, -0.1, rtol=1e-4)
        assert np.asarray(updates.bias).tolist() in ([0, 0], [1, 1])


def test_the_learning_rate_of_every_label_is_one_call_away() -> None:
    """optax #206, #312; flax #4320."""
    tx = gx.partition({"fast": gx.adam(gx.tunable(0.1)), "slow": gx.sgd(halving)}, LABELS)
    state = tx.init(PARAMS)
    _, state = tx.update(grads(1)[0], state, PARAMS)
    found = {name: round(float(value), 6) for name, value in gx.get_hyperparams(state).items()}
    assert found == {"fast.learning_rate": 0.1, "slow.learning_rate": 0.1}
    state = gx.set_hyperparams(state, **{"fast.learning_rate": 0.0})
    updates, _ = tx.update(grads(1)[0], state, PARAMS)
    assert (np.asarray(updates["decoder"]["kernel"]) == 0).all()
    assert (np.asarray(updates["encoder"]["kernel"]) != 0).all()
    assert gx.get_hyperparams(state, tx)["b1"] == 0.9


def test_extra_arguments_are_masked_where_asked() -> None:
    seen = []

    def update(grads: Any, state: Any, params: Any = None, *, other: Any, value: Any) -> Any:
        seen.append((jax.tree.structure(grads), jax.tree.structure(other), value))
        return grads, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    mask = {"encoder": True, "decoder": False}
    for asked in (True, False):
        tx = gx.masked(inner, mask, mask_compatible_extra_args=asked)
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, other=PARAMS, value=2.0)
        shown, other, value = seen.pop()
        assert (other == shown) == asked
        assert value == 2.0


def test_describe_tells_the_labels() -> None:
    text = str(gx.describe(build(gx, "partition"), PARAMS))
    assert "fast: scale_by_adam(" in text
    assert "slow: clip(" in text
    assert "mask=..." in str(gx.describe(build(gx, "prefix")))
    assert repr(gx.masked(optax.sgd(0.1), True)).startswith("masked around ")


def test_masks_inside_a_chain_with_the_common_example() -> None:
    params, each = example_params(), example_grads(3)
    mask = {"layers": True, "matrix": False}
    updates, _ = run(gx.chain(gx.masked(gx.scale(2.0), mask), gx.scale(0.5)), params, each)
    for update, grad in zip(updates, each, strict=True):
        np.testing.assert_array_equal(update["matrix"], 0.5 * grad["matrix"])
        np.testing.assert_array_equal(update["layers"][0], grad["layers"][0])
