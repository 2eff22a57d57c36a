"""The lift: one rule over any tree, in every way that JAX runs a function, with errors that name the leaf."""

import copy
import pickle
from dataclasses import replace
from typing import Any, NamedTuple

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE, Entry, assert_close, each, example_grads, example_params, run, x64
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradxform as gx
from gradxform.testing import check_rule

# What does not hold of some, and why.
EXCEPT = {
    # Of complex numbers: squares are real; functions of a number that are no functions of its size; noise.
    **dict.fromkeys(("accumulate_squares", "square", "yogi", "lion_smooth"), ("complex_numbers",)),
    **dict.fromkeys(("add_noise", "noisy_sgd", "scale_by_kron", "kron"), ("complex_numbers",)),
    # What they are made of is for whoever writes it to check.
    "stateless": ("complex_numbers", "bad_input"),
    "stateless_with_tree_map": ("complex_numbers", "says_if_it_needs_params"),
    **dict.fromkeys(("masked_foreign", "multi_steps_foreign", "snapshot", "monitor"), ("bad_input",)),
}


@each
def test_everything_that_is_promised(entry: Entry) -> None:
    """The checks of `gradxform.testing`; and that other processes get it by cloudpickle."""
    tx, params, (grad,) = entry.make(), example_params(), example_grads(1)
    check_rule(tx, rests=entry.rests, wide=entry.wide, skip=EXCEPT.get(entry.name, ()))
    other, state = pickle.loads(cloudpickle.dumps(tx)), tx.init(params)
    assert_close(other.update(grad, state, params), tx.update(grad, state, params))


@each
def test_with_64_bit_numbers_nothing_changes_its_width(entry: Entry) -> None:
    # A slot in bfloat16; random bits.
    if entry.name in ("nadam", "add_noise", "noisy_sgd", "scale_by_kron", "kron"):
        pytest.skip("it has numbers of another width on purpose")
    with x64():
        # Newton-Schulz coefficients are an array of double precision.
        wide = entry.name in ("scale_by_muon", "orthogonal_rows", "muon")
        check_rule(entry.make(), example_params(jnp.float64) if wide else None, only=["width"])


def test_slots_are_sharded_like_their_parameters() -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = {"w": jax.device_put(jnp.ones((8, 2)), rows)}
    tx = gx.adam(0.1)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
        leaves = [*jax.tree.leaves(updates), *jax.tree.leaves(state.slots)]
        assert len(leaves) == 3
        for leaf in leaves:
            assert leaf.sharding.is_equivalent_to(rows, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gx.adam(0.1, eps=0.0),
        lambda: gx.adam(0.1, eps=0.0, nesterov=True),
        lambda: gx.rmsprop(0.1, eps=0.0),
        lambda: gx.rmsprop(0.1, eps=0.0, eps_in_sqrt=False, centered=True, bias_correction=True),
        lambda: gx.adagrad(0.1, eps=0.0),
        lambda: gx.adadelta(eps=0.0),
        lambda: gx.clip_by_global_norm(1.0),
    ],
)
def test_nothing_touched_nothing_moves_without_epsilon(make: Any) -> None:
    tx = make()

    def final(start: Any) -> Any:
        # The loss is flat: the gradients are zero, but differentiable in the parameters.
        params, state = start, tx.init(start)
        for _ in range(3):
            update, state = tx.update(jax.tree.map(lambda p: 0.0 * p, params), state, params)
            params = gx.apply_updates(params, update)
        return params["w"].sum()

    start = {"w": jnp.asarray([1.0, -2.0])}
    value, slope = jax.jit(jax.value_and_grad(final))(start)
    assert value == -1.0
    np.testing.assert_array_equal(slope["w"], [1.0, 1.0])


def test_meta_gradients() -> None:
    """Through three updates, by the start: finite where the gradients are zero, and right elsewhere."""
    rng = np.random.default_rng(0)
    with x64():
        start = jnp.asarray(rng.normal(size=4))
        direction = jnp.asarray(rng.normal(size=4))
        curvature = jnp.asarray([1.0, 2.0, 0.5, 3.0])
        # The optimizers, and what is in none of them; not those kept in bfloat16, which have no slope.
        others = (
            "accumulate_squares",
            "ratio",
            "scale_by_stddev",
            "clip_between_moments",
            "add_decayed_weights",
        )
        for entry in CATALOGUE:
            if entry.name == "nadam" or not (entry.descends or entry.name in others):
                continue
            tx = entry.make()

            def final(start: Any, tx: Any = tx) -> Any:
                def step(carry: Any, _: Any) -> Any:
                    params, state = carry
                    update, state = tx.update(curvature * params, state, params)
                    return (gx.apply_updates(params, -0.1 * update), state), None

                (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=3)
                return jnp.sum(params**2)

            both = jax.jit(jax.value_and_grad(final))
            h = 1e-6
            difference = (both(start + h * direction)[0] - both(start - h * direction)[0]) / (2 * h)
            np.testing.assert_allclose(both(start)[1] @ direction, difference, rtol=1e-6, err_msg=entry.name)
            assert np.isfinite(both(jnp.zeros(4))[1]).all(), entry.name


@pytest.mark.parametrize("make", [gx.sgd, gx.adagrad, gx.rmsprop, gx.adadelta, gx.adam])
def test_meta_gradients_of_the_learning_rate(make: Any) -> None:
    with x64():
        curvature = jnp.asarray([1.0, 2.0, 0.5])

        def final(rate: Any, start: Any) -> Any:
            tx = make(rate)
            params, state = start, tx.init(start)
            for _ in range(3):
                update, state = tx.update(curvature * params, state, params)
                params = gx.apply_updates(params, update)
            return jnp.sum(params**2)

        start = jnp.asarray([1.0, -2.0, 0.3])
        both = jax.jit(jax.value_and_grad(final))
        difference = (both(0.1 + 1e-6, start)[0] - both(0.1 - 1e-6, start)[0]) / 2e-6
        np.testing.assert_allclose(both(0.1, start)[1], difference, rtol=1e-6)
        assert both(0.1, jnp.zeros(3))[1] == 0.0


def test_one_trace_a_shape_however_many_leaves() -> None:
    traces = []

    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        traces.append(grad.shape)
        return grad * 2, slots

    tx = gx.chain(gx.clip(9.0), gx.chain(gx.lift(gx.Rule("double", update)), gx.identity()), gx.scale(0.5))
    params = {f"w{i}": jnp.ones((i % 3 + 1,)) for i in range(30)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(params, state, params)
    assert sorted(traces) == [(1,), (2,), (3,)]
    assert_close(updates, params)


def test_lowered_text_has_one_function_a_shape() -> None:
    """As many private functions for forty leaves as for the two shapes that they have."""
    tx = gx.adam(gx.tunable(0.1))

    def functions(leaves: int) -> int:
        params = [jnp.ones((i % 2 + 2,)) for i in range(leaves)]
        lowered = jax.jit(tx.update).lower(params, tx.init(params), params)
        return lowered.as_text().count("func.func private @scale_by_adam_scale_by_learning_rate")

    assert functions(2) == 2
    assert functions(40) == 2


def test_a_rule_sees_wide_arrays_and_its_hyperparameters() -> None:
    class Kept(NamedTuple):
        kept: Any

    seen: list[Any] = []

    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        seen.append(
            (grad.dtype, slots.kept.dtype, param.dtype, step.constant, step.array.dtype, step.t.dtype)
        )
        return grad * step.array + step.constant * step.count + step.t, Kept(slots.kept + step.t)

    rule = gx.Rule(
        "probe",
        update,
        lambda param: Kept(gx.slot_like(param, dtype=jnp.bfloat16)),
        {"constant": 2, "array": jnp.asarray(3.0)},
        counts=True,
    )
    params = {"w": jnp.ones(2, jnp.float16)}
    updates, state = run(gx.lift(rule), params, [params, params])
    assert seen == [(jnp.float32, jnp.float32, jnp.float32, 2, jnp.float32, jnp.float32)]
    np.testing.assert_array_equal(updates[0]["w"], np.full(2, 3.0 + 0.0 + 1.0))
    np.testing.assert_array_equal(updates[1]["w"], np.full(2, 3.0 + 2.0 + 2.0))
    assert updates[0]["w"].dtype == jnp.float16
    assert state.slots[0].kept["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.slots[0].kept["w"].astype(float), [3.0, 3.0])
    assert state.count == 2


@pytest.mark.parametrize(
    ("make", "counts"),
    [
        (lambda: gx.sgd(0.1, momentum=0.9), False),
        (lambda: gx.sgd(gx.tunable(0.1)), False),
        (lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.rmsprop(jnp.asarray(0.1))), False),
        (lambda: gx.sgd(lambda count: 0.1), True),
        (lambda: gx.chain(gx.trace(0.9), gx.ema(0.9)), True),
        (lambda: gx.add_noise(0.1, 0.55, 0), True),
    ],
)
def test_a_state_counts_where_something_depends_on_it(make: Any, counts: bool) -> None:
    tx, params = make(), {"w": jnp.ones(2)}
    state = jax.jit(tx.update)(params, tx.init(params), params)[1]
    assert state.count == 1 if counts else state.count is None
    other = gx.adam(0.1) if not counts else gx.sgd(0.1)
    said = "it does not count steps" if counts else "it counts steps, which is not needed"
    with pytest.raises(ValueError, match=f"the state is not one that its init made: {said}"):
        tx.update(params, tx.init(params)._replace(count=other.init(params).count), params)


@pytest.mark.parametrize("name", ["count", "t"])
def test_a_rule_that_reads_the_count_has_to_say_so(name: str) -> None:
    tx = gx.lift(gx.Rule("late", lambda grad, slots, param, step: (grad / getattr(step, name), slots)))
    with pytest.raises(
        AttributeError, match=rf"reads step.{name}, so it must say Rule\(..., counts=True\)"
    ) as it:
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))
    assert "while late updated params['w']" in it.value.__notes__


def test_total_sees_what_the_rules_before_it_did() -> None:
    grads = {"a": jnp.asarray([3.0, -9.0]), "b": jnp.asarray(8.0), "none": None}
    tx = gx.chain(gx.clip(4.0), gx.clip_by_global_norm(1.0), gx.scale(2.0))
    clipped = np.array([3.0, -4.0, 4.0])
    expected = 2 * clipped / np.linalg.norm(clipped)
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose([*updates["a"], updates["b"]], expected, rtol=1e-6)


def test_count_saturates() -> None:
    tx = gx.sgd(lambda count: count)
    top = np.iinfo(np.int32).max
    state = tx.init([1.0])._replace(count=jnp.asarray(top - 1, jnp.int32))
    counts = []
    for _ in range(3):
        updates, state = jax.jit(tx.update)([1.0], state)
        counts.append(int(state.count))
        assert float(updates[0]) == pytest.approx(-top, rel=1e-6)
    assert counts == [top, top, top]


def test_masks() -> None:
    params = {"w": jnp.ones(2), "nested": {"b": jnp.ones(3), "none": None}}
    expected = {"w": np.full(2, 1.5), "nested": {"b": np.ones(3), "none": None}}
    for mask in (
        {"w": True, "nested": False},
        {"w": np.bool_(True), "nested": {"b": False, "none": None}},
        {"w": True, "nested": {"b": False, "none": True}},
        lambda params: jax.tree.map(lambda p: p.size == 2, params),
    ):
        tx = gx.add_decayed_weights(0.5, mask=mask)
        updates, _ = tx.update(params, tx.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_a_masked_leaf_has_no_slots() -> None:
    class Kept(NamedTuple):
        kept: Any

    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        return slots.kept + grad, Kept(slots.kept + grad)

    for mask, names in (({"a": True, "b": False}, ["a"]), (True, ["a", "b"]), (False, [])):
        tx = gx.lift(gx.Rule("sum", update, lambda p: Kept(gx.slot_like(p)), mask=mask))
        params = {"a": jnp.ones(2), "b": jnp.ones(3)}
        updates, state = run(tx, params, [params, params])
        assert len(jax.tree.leaves(state.slots)) == len(names)
        for name in params:
            np.testing.assert_array_equal(updates[1][name], 2.0 if name in names else 1.0)


def test_a_mask_is_aligned_with_gradients_that_leave_out_a_subtree() -> None:
    params = {"a": {"x": jnp.ones(1), "y": jnp.ones(1)}, "b": jnp.ones(1)}
    tx = gx.chain(
        gx.trace(0.5), gx.add_decayed_weights(1.0, mask={"a": False, "b": True}), gx.clip_by_global_norm(9.0)
    )
    updates, state = tx.update({"a": None, "b": jnp.zeros(1)}, tx.init(params), params)
    assert updates["a"] is None
    assert updates["b"] == 1.0
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


def test_a_callable_tree_is_no_function() -> None:
    @jax.tree_util.register_pytree_node_class
    class Model:
        def __init__(self, w: Any) -> None:
            self.w = w

        def __call__(self, *args: Any) -> Any:
            raise AssertionError("a tree was called")

        def tree_flatten(self) -> Any:
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _: Any, leaves: Any) -> Any:
            return cls(*leaves)

    params = Model(jnp.ones(2))
    tx = gx.chain(gx.adam(0.1), gx.add_decayed_weights(0.5, mask=Model(True)))
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates.w, -0.1 + 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [(jnp.arange(3), "int32"), (jnp.asarray([True]), "bool"), (3, "int32"), (True, "bool"), ("text", "str")],
)
def test_leaves_that_are_no_numbers_to_optimize(leaf: Any, dtype: str) -> None:
    good, bad = {"layer": [{"w": jnp.ones(2)}]}, {"layer": [{"w": leaf}]}
    for tx in (gx.adam(0.1), gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(0.1))):
        with pytest.raises(TypeError, match=rf"params\['layer'\]\[0\]\['w'\] has dtype {dtype}.*None"):
            tx.init(bad)
        with pytest.raises(TypeError, match=rf"grads\['layer'\]\[0\]\['w'\] has dtype {dtype}.*None"):
            tx.update(bad, tx.init(good), good)


def test_trees_that_disagree() -> None:
    tx = gx.adam(0.1)
    w, b = jnp.ones((2, 3)), jnp.ones(3)
    params = {"w": w, "b": b}
    state = tx.init(params)
    disagreements: list[tuple[Any, Any, Any, str]] = [
        ({"w": w.T, "b": b}, state, params, r"grads\['w'\] has shape \(3, 2\).*\(2, 3\)"),
        ({"w": w}, state, params, r"params\['b'\] has no counterpart in grads"),
        ({"w": w}, state, None, r"slots of scale_by_adam\['b'\] has no counterpart in grads"),
        ({**params, "c": b}, state, params, r"grads\['c'\] has no counterpart in params"),
        ((w, b), state, params, r"no counterpart"),
        ({"w": {"deep": w}, "b": b}, state, params, r"grads\['w'\]\['deep'\] has no counterpart in params"),
        ({"w": w, "b": b}, state, {"w": {"deep": w}, "b": b}, r"grads\['w'\] is a gradient.* have dict"),
        (params, state, {"w": None, "b": b}, r"grads\['w'\] is a gradient.* have None"),
        (params, tx.init({"w": w}), params, r"grads\['b'\] has no counterpart in the slots of scale_by_adam"),
        (params, tx.init({"w": b, "b": b}), params, r"scale_by_adam turned a slot of .* made for other"),
        (params, tx.init({"w": w, "b": w}), params, r"scale_by_adam turned a gradient .* made for other"),
        (params, (), params, "the state is not one that its init made.*tuple"),
        (params, gx.sgd(0.1).init(params), params, "not one that its init made: .* 1 rules instead of 2"),
        (
            params,
            gx.adam(gx.tunable(0.1)).init(params),
            params,
            r"tunables are \['learning_rate'\] instead of",
        ),
    ]
    for grads, other_state, other_params, message in disagreements:
        with pytest.raises(ValueError, match=message):
            tx.update(grads, other_state, other_params)
    pair = gx.sgd(0.1)
    with pytest.raises(ValueError, match="different types"):
        pair.update((w,), pair.init([w]), [w])


def test_a_scalar_gradient_does_not_stand_for_a_subtree() -> None:
    tx = gx.sgd(0.1)
    params = {"a": {"x": jnp.ones(())}}
    with pytest.raises(ValueError, match=r"grads\['a'\]"):
        tx.update({"a": jnp.ones(())}, tx.init(params), params)


def test_complex_gradient_for_a_real_parameter() -> None:
    params = {"w": jnp.ones(2)}
    grads = {"w": jnp.ones(2) * 1j}
    for tx in (gx.sgd(0.1), gx.adam(0.1)):
        with pytest.raises(TypeError, match=r"grads\['w'\] is complex.*float32.*real part"):
            tx.update(grads, tx.init(params), params)
    tx = gx.adam(0.1)
    with pytest.raises(
        TypeError, match="scale_by_adam cannot keep complex numbers in a slot of dtype float32"
    ):
        tx.update(grads, tx.init(params))


def test_what_a_rule_may_not_do() -> None:
    class Kept(NamedTuple):
        kept: Any

    params = {"layer": {"w": jnp.ones(3)}}

    def noted(tx: Any, error: type[Exception], match: str) -> str:
        with pytest.raises(error, match=match) as info:
            tx.update(params, tx.init(params), params)
        return "\n".join(info.value.__notes__)

    squash = gx.Rule("squash", lambda grad, slots, param, step: (grad.sum(), slots))
    assert "squash updated params['layer']['w']" in noted(
        gx.lift(squash), ValueError, r"squash turned a gradient of shape \(3,\) into an update of shape \(\)"
    )
    forget = gx.Rule(
        "forget", lambda grad, slots, param, step: (grad, Kept(grad.sum())), lambda p: Kept(gx.slot_like(p))
    )
    assert "forget updated params['layer']['w']" in noted(
        gx.lift(forget), ValueError, r"forget turned a slot of shape \(3,\) into one of shape \(\)"
    )

    def fail(*args: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    keep = lambda grad, slots, param, step: (grad, slots)  # noqa: E731
    assert "clip + broken updated params['layer']['w']" in noted(
        gx.chain(gx.clip(1.0), gx.lift(gx.Rule("broken", fail))), ZeroDivisionError, "on purpose"
    )
    assert "broken made its slots for params['layer']['w']" in noted(
        gx.lift(gx.Rule("broken", keep, fail)), ZeroDivisionError, "on purpose"
    )
    assert "broken took the total of params['layer']['w']" in noted(
        gx.lift(gx.Rule("broken", keep, total=fail)), ZeroDivisionError, "on purpose"
    )
    ask = gx.Rule("ask", lambda grad, slots, param, step: (grad * step.rate, slots), hyperparams={"rat": 1.0})
    assert "params['layer']['w']" in noted(gx.lift(ask), AttributeError, r"no hyperparameter 'rate'.*'rat'")


def test_missing_parameters_and_masks_that_do_not_fit() -> None:
    params = {"w": jnp.ones(2), "b": jnp.ones(3)}
    tx = gx.add_decayed_weights(0.1)
    with pytest.raises(
        ValueError, match=r"add_decayed_weights needs the parameters.*update\(grads, state, params\)"
    ):
        tx.update(params, tx.init(params))
    unfitting: list[tuple[Any, type[Exception], str]] = [
        ({"w": True}, ValueError, r"the parameters\['b'\] has no counterpart in its mask"),
        ({"w": True, "b": False, "c": True}, ValueError, r"its mask\['c'\] has no counterpart"),
        ({"w": 1, "b": False}, TypeError, r"its mask has 1 for params\['w'\]"),
        (lambda params: {"w": True, "b": None}, TypeError, r"its mask has None for params\['b'\]"),
        ([True, False], ValueError, "its mask"),
    ]
    for mask, error, message in unfitting:
        with pytest.raises(error, match=f"add_decayed_weights.*{message}"):
            gx.add_decayed_weights(0.1, mask=mask).init(params)


def test_lift_takes_rules() -> None:
    with pytest.raises(TypeError, match=r"lift takes rules.*chain"):
        gx.lift(gx.clip(1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tx",
    [
        gx.adam(gx.tunable(0.1)),
        gx.chain(optax.scale(2.0), gx.sgd(0.1)),
        gx.named_chain(("step", gx.sgd(0.1))),
    ],
)
def test_a_transformation_can_be_copied_and_passed_through_trees(tx: Any) -> None:
    params = {"w": jnp.ones(2)}
    grads = [params]
    expected = run(tx, params, grads)
    for other in (copy.copy(tx), copy.deepcopy(tx), jax.tree.map(lambda leaf: leaf, tx)):
        assert repr(other) == repr(tx)
        assert_close(run(other, params, grads), expected)


def compiled(tx: Any) -> gx.GradientTransformation:
    return gx.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))


def test_inside_optax() -> None:
    """Rules stand in Optax's own combinators, and give what Optax's rules give there."""
    params = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(0.5)}
    grads = [jax.tree.map(lambda p, i=i: p * (i + 1), params) for i in range(4)]
    mask = {"w": True, "b": False}
    ours, theirs = gx.adam(0.1), optax.adam(0.1)
    wrapped = [
        lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx, optax.scale(0.5)),
        lambda tx: optax.masked(tx, mask),
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: optax.multi_transform({"a": tx, "b": optax.sgd(0.1)}, {"w": "a", "b": "b"}),
    ]
    for wrap in wrapped:
        updates, _ = run(compiled(wrap(ours)), params, grads)
        expected, _ = run(compiled(wrap(theirs)), params, grads)
        assert_close(updates, expected)

    injected = optax.inject_hyperparams(gx.sgd)(learning_rate=optax.linear_schedule(0.1, 0.0, 4))
    updates, state = run(compiled(injected), params, grads)
    expected, _ = run(compiled(optax.sgd(optax.linear_schedule(0.1, 0.0, 4))), params, grads)
    assert_close(updates, expected)
    np.testing.assert_allclose(gx.get_hyperparams(state)["learning_rate"], 0.025, rtol=1e-6)


class _Longest(NamedTuple):
    longest: Any
    steps: Any


def _by_the_longest() -> Any:
    """Divide by the largest norm of all steps; the norm and the number of elements are totals."""

    def total(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        return jnp.sum(grad**2), jnp.float32(grad.size)

    def advance(total: Any, step: Any) -> Any:
        return _Longest(
            jnp.maximum(step.last.longest, step.weight * total[0] / total[1]), step.last.steps + 1
        )

    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        return grad / jnp.sqrt(step.shared.longest) + 0 * step.last.steps, slots

    rule = gx.Rule(
        "longest",
        update,
        hyperparams={"weight": 1.0},
        total=total,
        advance=advance,
        shared=_Longest(0.0, 0),
    )
    return gx.lift(rule)


def test_numbers_for_the_whole_tree_pass_from_step_to_step() -> None:
    params, grads = example_params(), example_grads(3)
    updates, state = run(gx.chain(gx.scale(2.0), _by_the_longest()), params, grads)
    longest = 0.0
    for grad, update in zip(grads, updates, strict=True):
        flat = 2 * np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grad)])
        longest = max(longest, np.mean(flat**2))
        assert_close(update, jax.tree.map(lambda leaf: 2 * leaf / np.float32(np.sqrt(longest)), grad))  # noqa: B023
    assert state.shared[1].steps == 3
    np.testing.assert_allclose(state.shared[1].longest, longest, rtol=1e-6)
    assert "longest, steps" in str(gx.describe(_by_the_longest()))
    kept = gx.tree_map_params(_by_the_longest(), lambda leaf: None, _by_the_longest().init(params))
    assert kept.shared[0].longest == 0


def test_numbers_for_the_whole_tree_of_an_empty_tree_stay() -> None:
    tx = _by_the_longest()
    assert tx.update({}, tx.init({}))[1].shared[0] == (0, 0)


def test_a_rule_gets_the_arguments_that_it_needs_and_says_so_when_there_are_none() -> None:
    rule = gx.Rule("by_value", lambda grad, slots, param, step: (step.value * grad, slots), extra=("value",))
    tx = gx.chain(gx.clip_by_global_norm(10.0), gx.lift(rule), gx.scale(2.0))
    state = tx.init([1.0])
    assert tx.update([1.0], state, value=3.0, other=None)[0][0] == 6.0
    with pytest.raises(TypeError, match=r"by_value needs value: call .*value=\.\.\."):
        tx.update([1.0], state)


def test_options_tell_the_leaves_apart() -> None:
    rule = gx.Rule(
        "power",
        lambda grad, slots, param, step: (grad**step.option, slots),
        options=lambda params: jax.tree.map(lambda leaf: leaf.ndim + 1, params),
    )
    params = {"a": jnp.full((), 2.0), "b": jnp.full(1, 2.0), "c": None, "d": jnp.full((1, 1), 2.0)}
    tx = gx.lift(rule)
    updates = tx.update(params, tx.init(params))[0]
    assert [leaf.item() for leaf in jax.tree.leaves(updates)] == [2.0, 4.0, 8.0]
    prefix = gx.lift(replace(rule, options={"x": 2, "y": 3}))
    tree = {"x": [3.0, 1.0], "y": 2.0}
    assert jax.tree.leaves(prefix.update(tree, prefix.init(tree))[0]) == [9.0, 1.0, 8.0]
    with pytest.raises(ValueError, match=r"power: .*\['y'\]"):
        prefix.update({"x": 3.0}, prefix.init({"x": 3.0}))


def test_leaves_of_equal_shape_are_one_call_of_a_batched_rule() -> None:
    calls = []

    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        calls.append(grad.shape)
        noise = jax.random.normal(step.key, grad.shape)
        mu = 0.5 * slots.trace + grad @ jnp.ones((2, 2)) * param
        return mu + noise, type(slots)(mu)

    made = gx.trace(0.9).rules[0].init
    rule = gx.Rule("product", update, made, {"key": jax.random.key(0)}, random=True, scope="array")
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (5, 2), "c": [(3, 2), (3, 2)], "d": (3, 2)}
    params, *grads = [
        jax.tree.map(
            lambda s: jnp.asarray(rng.normal(size=s), "float32"),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        for _ in range(4)
    ]
    alone = gx.chain(gx.trace(0.5), gx.lift(rule), gx.scale(2.0))
    together = gx.chain(gx.trace(0.5), gx.lift(replace(rule, batched=True)), gx.scale(2.0))
    one_by_one = run(alone, params, grads)
    calls.clear()
    stacked = run(together, params, grads)
    assert sorted(calls) == [(3, 2), (5, 2)]
    assert_close(stacked, one_by_one)
    text = jax.jit(together.update).lower(grads[0], together.init(params), params).as_text()
    assert text.count("dot_general") == 2
    masked = [gx.masked(tx, {"a": False, "b": True, "c": True, "d": True}) for tx in (alone, together)]
    assert_close(*(run(tx, params, grads) for tx in masked))
