"""Chains: what merges, what splits, and what passes through parts of other libraries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, run

import gradxform as gx
from gradxform.chain import Chain, NamedChain
from gradxform.rule import Lift

PARAMS = {"w": jnp.asarray([1.0, -2.0, 3.0]), "b": jnp.asarray(0.5)}
GRADS = [jax.tree.map(lambda p, i=i: p * (i - 1.5), PARAMS) for i in range(4)]


def rule_names(tx: Any) -> list[str]:
    assert isinstance(tx, Lift)
    return [rule.name for rule in tx.rules]


def test_adjacent_rules_merge() -> None:
    tx = gx.chain(
        gx.identity(),
        gx.chain(gx.clip(1.0), gx.chain(gx.identity(), gx.scale(2.0))),
        gx.identity(),
        gx.adam(0.1),
    )
    assert rule_names(tx) == ["clip", "scale", "scale_by_adam", "scale_by_learning_rate"]
    assert isinstance(gx.chain(), Lift)
    assert rule_names(gx.chain()) == rule_names(gx.chain(gx.identity(), gx.identity())) == []
    assert rule_names(gx.chain(gx.clip(1.0))) == ["clip"]


def test_a_foreign_part_splits_the_lift() -> None:
    foreign = optax.scale(0.5)
    tx = gx.chain(
        gx.identity(),
        gx.clip(1.0),
        gx.chain(gx.scale(2.0), foreign),
        gx.identity(),
        gx.chain(gx.scale(3.0), gx.trace(0.9)),
    )
    assert isinstance(tx, Chain)
    assert [type(part) for part in tx.parts] == [Lift, type(foreign), Lift]
    assert [rule_names(tx.parts[i]) for i in (0, 2)] == [["clip", "scale"], ["scale", "trace"]]
    state = tx.init(PARAMS)
    assert len(state) == 3
    updates, _ = run(tx, PARAMS, GRADS)
    expected, _ = run(
        optax.chain(optax.clip(1.0), optax.scale(2.0), foreign, optax.scale(3.0), optax.trace(0.9)),
        PARAMS,
        GRADS,
    )
    assert_close(updates, expected)
    assert gx.chain(gx.identity(), foreign, gx.identity()) is foreign
    # A chain in which a foreign part is nested is taken apart, and its ends merge.
    nested = gx.chain(gx.clip(1.0), tx, gx.scale(1.0))
    assert isinstance(nested, Chain)
    assert rule_names(nested.parts[0]) == ["clip", "clip", "scale"]
    assert rule_names(nested.parts[2]) == ["scale", "trace", "scale"]


def test_merging_changes_nothing() -> None:
    """A chain equals its parts applied one after the other, each with a state of its own."""
    parts = [
        gx.clip_by_global_norm(2.0),
        gx.add_decayed_weights(0.1, mask={"w": True, "b": False}),
        gx.scale_by_adam(),
        gx.clip_by_global_norm(0.5),
        gx.trace(0.5),
        gx.scale_by_learning_rate(lambda count: 0.1 / (count + 1)),
    ]
    merged, _ = run(gx.chain(*parts), PARAMS, GRADS)
    apart, _ = run(gx.named_chain(*((str(i), part) for i, part in enumerate(parts))), PARAMS, GRADS)
    assert_close(merged, apart)


def test_extra_keyword_arguments_reach_those_that_take_them() -> None:
    seen: list[dict[str, Any]] = []

    def takes(name: str) -> gx.GradientTransformation:
        def update(grads: Any, state: Any, params: Any = None, *, value: Any = None) -> Any:
            seen.append({name: value})
            return grads, state

        return gx.GradientTransformation(lambda params: (), update)

    def takes_all(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        seen.append(extra)
        return grads, state

    everything = gx.GradientTransformation(lambda params: (), takes_all)
    tx = gx.chain(
        gx.sgd(0.1), takes("first"), optax.scale(2.0), gx.named_chain(("deep", takes("second"))), everything
    )
    state = tx.init(PARAMS)
    updates, _ = tx.update(PARAMS, state, PARAMS, value=3.0, loss=4.0)
    assert seen == [{"first": 3.0}, {"second": 3.0}, {"value": 3.0, "loss": 4.0}]
    np.testing.assert_allclose(updates["w"], -0.2 * PARAMS["w"], rtol=1e-6)
    # Our own parts take any, and use none.
    gx.sgd(0.1).update(PARAMS, gx.sgd(0.1).init(PARAMS), value=1.0)


def test_optax_parts_with_a_value() -> None:
    """Polyak's step size and a line search, which need the loss, between parts of ours."""

    def loss(params: Any) -> Any:
        return jnp.sum(params["w"] ** 2) + (params["b"] - 1.0) ** 2

    def descend(tx: Any, **extra: Any) -> list[Any]:
        @jax.jit
        def step(params: Any, state: Any) -> Any:
            value, grad = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grad, state, params, value=value, **({"grad": grad} | extra))
            return gx.apply_updates(params, updates), state

        params, state, passed = PARAMS, tx.init(PARAMS), []
        for _ in range(4):
            params, state = step(params, state)
            passed.append(params)
        return passed

    # Alone, and behind ours; Optax's own chain hands the arguments on as well.
    assert_close(
        descend(gx.chain(gx.clip(1.0), optax.polyak_sgd(), gx.scale(0.5))),
        descend(optax.chain(optax.clip(1.0), optax.polyak_sgd(), optax.scale(0.5))),
    )
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=5)
    ours = descend(gx.chain(gx.sgd(1.0), search), value_fn=loss)
    theirs = descend(optax.chain(optax.sgd(1.0), search), value_fn=loss)
    assert_close(ours, theirs)
    assert loss(ours[-1]) < 0.1 * loss(PARAMS)


def test_named_chain() -> None:
    tx = gx.named_chain(("clip", gx.clip(1.0)), ("optax", optax.scale_by_adam()), ("step", gx.scale(-0.1)))
    assert isinstance(tx, NamedChain)
    updates, state = run(tx, PARAMS, GRADS)
    assert list(state) == ["clip", "optax", "step"]
    expected, _ = run(optax.chain(optax.clip(1.0), optax.adam(0.1)), PARAMS, GRADS)
    assert_close(updates, expected)
    with pytest.raises(
        ValueError, match=r"named_chain: the state must have the names \['clip', 'optax', 'step'\]"
    ):
        tx.update(PARAMS, {"clip": state["clip"]})
    with pytest.raises(ValueError, match=r"must have the names.*tuple"):
        tx.update(PARAMS, ())
    # In a chain it stays a part by itself, and keeps its names.
    outer = gx.chain(gx.scale(1.0), tx, gx.scale(1.0))
    assert list(outer.init(PARAMS)[1]) == ["clip", "optax", "step"]


def test_what_cannot_be_chained() -> None:
    with pytest.raises(TypeError, match=r"chain: part 1 is no transformation.*did you mean clip\(...\)"):
        gx.chain(gx.scale(1.0), gx.clip)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"chain: part 0 is no transformation.*3"):
        gx.chain(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="named_chain takes pairs"):
        gx.named_chain(gx.clip(1.0))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"named_chain: part 'a' is no transformation.*did you mean adam\(...\)"
    ):
        gx.named_chain(("a", gx.adam))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the name 'a' comes twice"):
        gx.named_chain(("a", gx.clip(1.0)), ("a", gx.scale(1.0)))


def test_the_state_of_another_chain() -> None:
    tx = gx.chain(gx.scale(1.0), optax.scale(1.0))
    for state in ((), gx.sgd(0.1).init(PARAMS)[:1], {}):
        with pytest.raises(ValueError, match=r"chain: the state is not one that its init made.* 2 states"):
            tx.update(PARAMS, state)


def test_identity_touches_nothing() -> None:
    grads = {"w": jnp.ones(2, jnp.bfloat16), "none": None, "float": 2.0}
    tx = gx.identity()
    updates, state = jax.jit(tx.update)(grads, tx.init(grads))
    assert updates["w"].dtype == jnp.bfloat16
    assert updates["none"] is None
    assert float(updates["float"]) == 2.0
    assert state.count is None
