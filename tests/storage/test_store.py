"""Stored optimizers: what is stored and what is not, how they train, and that all else goes on working."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE, Entry, example_grads, run
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gradxform as gx
from gradxform.comparison.tasks import digits
from gradxform.parallel.sharding import state_sharding
from gradxform.slots import (
    DIVISOR,
    EXACT,
    MOMENT,
    Encoded,
    Exact,
    Kind,
    NonNegative,
    decode_stored,
    map_slots,
)
from gradxform.storage.codecs import CODECS, Codec
from gradxform.storage.store import store
from gradxform.testing import check_rule

SECOND_MOMENT = Kind(signed=False, nonzero=True)


def encoded(state: Any) -> list[Encoded]:
    """The stored slots of a state."""
    return [x for x in jax.tree.leaves(state, is_leaf=Encoded.here) if Encoded.here(x)]


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bytes_each(tx: Any, params: Any) -> float:
    found = gx.describe(tx, params)
    assert found.state_bytes is not None
    assert found.param_count is not None
    return found.state_bytes / found.param_count


# What is stored


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("bfloat16", 4),
        ("bfloat16+8", 6),
        ("float8", 2 + 6 / 64),
        ("int8", 2 + 6 / 64),
        ("int8-linear", 2 + 6 / 64),
        ("int4", 1 + 6 / 64),
    ],
)
def test_bytes_of_adam_on_a_table_of_short_rows(codec: str, expected: float) -> None:
    table = jax.ShapeDtypeStruct((10_000, 64), jnp.float32)
    assert bytes_each(store(gx.adam(0.1), codec), table) == pytest.approx(expected, abs=1e-4)
    assert bytes_each(store(gx.adam(0.1)), table) <= 2.1
    assert bytes_each(gx.adam(0.1), table) / bytes_each(store(gx.adam(0.1)), table) >= 3.8


def test_small_leaves_whole_and_complex_numbers_stay_as_they_are() -> None:
    params = {
        "large": jnp.zeros((64, 64)),
        "small": jnp.zeros((63, 65)),
        "complex": jnp.zeros((64, 64), jnp.complex64),
        "number": jnp.zeros(()),
        "empty": jnp.zeros((64, 0)),
        "none": None,
    }
    slots = store(gx.scale_by_adam()).init(params).slots[0]
    for name in ("mu", "nu"):
        stored = {key for key, slot in getattr(slots, name).items() if Encoded.here(slot)}
        # The second moment of complex numbers is real.
        assert stored == {"large", "complex"} if name == "nu" else stored == {"large"}
    everything = store(gx.scale_by_adam(), min_size=0).init(params).slots[0]
    assert {key for key, slot in everything.mu.items() if Encoded.here(slot)} == {"large", "small"}


def test_slots_whose_every_digit_counts_stay_as_they_are_unless_named() -> None:
    params = draw(8, 16)
    tx = gx.prodigy(0.1)
    slots = store(tx, "bfloat16", min_size=0).init(params).slots[0]
    kept = {name for name, slot in slots._asdict().items() if not Encoded.here(slot)}
    assert kept == {"params0"}
    named = store(tx, "bfloat16", min_size=0, slots="params0").init(params).slots[0]
    assert [name for name, slot in named._asdict().items() if Encoded.here(slot)] == ["params0"]
    np.testing.assert_allclose(named.params0.decode(), params, rtol=2**-8)


def test_each_slot_can_have_its_own_codec() -> None:
    tx = store(store(gx.adam(0.1), slots="nu", min_size=0), "bfloat16", slots=("mu",), min_size=0)
    assert repr(tx).startswith("chain(scale_by_adam[nu: int8][mu: bfloat16](b1=0.9")
    _, state = run(tx, draw(4, 64), [draw(4, 64, seed=1)])
    mu, nu = state.slots[0]
    assert [array.dtype for array in mu.arrays] == [jnp.bfloat16]
    assert [array.dtype for array in nu.arrays] == [jnp.uint8, jnp.bfloat16, jnp.uint8]
    # What is stored already stays with its codec.
    again = store(store(gx.adam(0.1), slots="nu", min_size=0), "bfloat16", min_size=0)
    assert [slot.codec for slot in again.init(draw(4, 64)).slots[0]] == [mu.codec, nu.codec]


@pytest.mark.parametrize(
    "leaves",
    [{"w": True, "b": False}, gx.leaves_of_rank(2), gx.leaves_named("*w*")],
    ids=["tree", "rank", "name"],
)
def test_leaves(leaves: Any) -> None:
    params = {"w": draw(4, 64), "b": draw(64)}
    inner = store(gx.adam(0.1), "bfloat16", slots="mu", min_size=0)
    tx = store(inner, slots="nu", min_size=0, leaves=leaves)
    mu, nu = tx.init(params).slots[0]
    assert Encoded.here(nu["w"])
    assert not Encoded.here(nu["b"])
    assert Encoded.here(mu["w"])
    assert Encoded.here(mu["b"])  # the inner one's are its own
    grads = [{"w": draw(4, 64, seed=s), "b": draw(64, seed=s)} for s in range(3)]
    updates, state = run(tx, params, grads)
    assert len(encoded(state)) == 3
    whole, _ = run(store(inner, slots="nu", min_size=0), params, grads)
    plain, _ = run(inner, params, grads)
    for ours, stored, exact in zip(updates, whole, plain, strict=True):
        np.testing.assert_array_equal(ours["w"], stored["w"])
        np.testing.assert_array_equal(ours["b"], exact["b"])


def test_leaves_of_a_wrapper_and_in_a_chain() -> None:
    params = {"w": draw(4, 64), "b": draw(64)}
    inner = gx.apply_if_finite(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1)), 2)
    tx = gx.chain(store(inner, min_size=0, leaves=gx.leaves_of_rank(2)), gx.scale(0.5))
    state = tx.init(params)
    assert len(encoded(state)) == 2
    updates, state = jax.jit(tx.update)(params, state, params)
    assert len(encoded(state)) == 2
    expected, _ = gx.adam(0.05).update(params, gx.adam(0.05).init(params))
    chex.assert_trees_all_close(updates, expected, rtol=1e-4)


def test_what_does_not_exist_is_named_with_what_does() -> None:
    with pytest.raises(ValueError, match="no codec 'int7'; there are 'bfloat16', "):
        store(gx.adam(0.1), "int7")
    with pytest.raises(TypeError, match="a name or a Codec, got 8"):
        store(gx.adam(0.1), 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"chain\(scale_by_adam.* has no slot 'v'; it has 'mu', 'nu'"):
        store(gx.adam(0.1), slots=("mu", "v"))
    with pytest.raises(ValueError, match="has no slot 'mu'; it has none"):
        store(gx.sgd(0.1), slots="mu")
    tx = store(gx.adam(0.1), leaves={"w": True, "v": True})
    with pytest.raises(ValueError, match=r"store: .*\['v'\]"):
        tx.init({"w": jnp.ones((64, 64))})
    assert store(gx.lbfgs(), slots="params").init(draw(64, 128))


def test_describe_shows_how_slots_are_kept() -> None:
    params = jax.ShapeDtypeStruct((64, 256), jnp.float32)
    found = gx.describe(store(gx.chain(gx.clip(1.0), gx.apply_if_finite(gx.adam(0.1), 2))), params)
    kept = 2 * (64 * 256 + 64 * 3)
    assert [(part.call.split("(")[0].strip(), part.state_bytes) for part in found.parts] == [
        ("clip", 0),  # with the count of the lift it stands in, which is no rule's
        ("store", 4),
        ("apply_if_finite", 9),
        ("scale_by_adam", kept),
        ("scale_by_learning_rate", 0),
    ]
    assert repr(store(gx.trace(0.9))) == "trace[int8](decay=0.9)"
    assert repr(store(gx.sgd(0.1))) == repr(gx.sgd(0.1))


# Numbers


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in CATALOGUE])
def test_every_optimizer(entry: Entry) -> None:
    grads = [{"matrix": grad["matrix"]} for grad in example_grads(3)]
    params = {"matrix": draw(8, 2)}
    tx = entry.make()
    if not encoded(jax.eval_shape(store(tx, min_size=0).init, params)):
        pytest.skip("none of its slots is stored")
    with jax.disable_jit():  # operations are compiled once for all of them
        in_bytes, _ = run(store(tx, min_size=0), params, grads)
        chex.assert_tree_all_finite(in_bytes)
        if entry.descends:
            nearly, _ = run(store(tx, "bfloat16+8", min_size=0), params, grads)
            exact, _ = run(tx, params, grads)
            size = max(float(jnp.abs(update["matrix"]).max()) for update in exact)
            chex.assert_trees_all_close(nearly, exact, rtol=1e-3, atol=1e-3 * size)


def test_digits_train_as_they_do_in_float32() -> None:
    """The mean final loss of five seeds within 1 %."""
    task = digits()
    losses = {}
    for codec in (None, "int8"):
        tx = gx.adam(1e-3) if codec is None else store(gx.adam(1e-3), codec, min_size=1)
        final = []
        for seed in range(5):
            start = task.init(jax.random.key(seed))
            result = gx.fit(
                task.loss, start, task.train, tx, batch_size=32, epochs=20, key=seed, progress=False
            )
            final.append([task.loss(result.params, data)[0] for data in (task.train, task.validation)])
        losses[codec] = np.mean(final, 0)
    np.testing.assert_allclose(losses["int8"], losses[None], rtol=0.01)


def test_a_second_moment_that_is_tiny_beside_its_block_does_not_make_a_large_step() -> None:
    grad = jnp.asarray([1e3, 1.0, 1e-3, 1e-12, 0.0])
    for tx in (
        gx.scale_by_adam(),
        gx.scale_by_rms(),
        gx.scale_by_rss(),
        gx.ratio(gx.ema(0.9), _root_of_squares()),
    ):
        for codec in ("int8", "int8-linear", "float8", "int4"):
            stored = store(tx, codec, min_size=1)
            with jax.disable_jit():
                updates, _ = run(stored, grad, [grad] * 3)
            update = updates[-1]
            assert (jnp.abs(update) <= 10).all(), (tx, codec)
            assert update[4] == 0


def _root_of_squares() -> Any:
    return gx.chain(gx.square(), gx.ema(0.999), gx.root())


def test_the_norm_over_all_leaves_is_of_decoded_slots() -> None:
    """Prodigy's total reads its slots, as MARS and others do."""
    params = draw(4, 64)
    grads = [draw(4, 64, seed=s) for s in range(4)]
    ours, _ = run(store(gx.prodigy(1.0), "bfloat16+8", min_size=0), params, grads)
    exact, _ = run(gx.prodigy(1.0), params, grads)
    chex.assert_trees_all_close(ours, exact, rtol=1e-3, atol=1e-10)


def test_what_is_not_finite_is_not_hidden() -> None:
    tx = store(gx.adam(0.1), min_size=1)
    params = draw(2, 64)
    _, state = tx.update(params.at[0, 0].set(jnp.nan), tx.init(params))
    update, _ = tx.update(params, state)
    assert jnp.isnan(update[0]).all()
    assert jnp.isfinite(update[1]).all()


# Everything else goes on working


def test_everything_that_is_promised() -> None:
    # Numbers of a block share its scale; squares of turned complex numbers differ in their last digit,
    # which may be all that is between two levels.
    check_rule(store(gx.adam(0.1), min_size=0), skip=["element_scope", "complex_numbers"])


@pytest.mark.parametrize(
    ("tx", "skip"),
    [
        (store(gx.adam(0.1), "bfloat16", min_size=0), []),
        # Optax's own state of a Python number changes its type, and its last digits differ under jit.
        (store(optax.adam(0.1), "int4", min_size=0), ["state_keeps_its_type", "runs_alike"]),
        (store(gx.adam(0.1), "float8", min_size=0, leaves=gx.leaves_of_rank(2)), []),
    ],
    ids=["bfloat16", "whole", "leaves"],
)
def test_what_can_differ_between_codecs_and_wrappings(tx: Any, skip: list[str]) -> None:
    checks = ["state_keeps_its_type", "runs_alike", "init_of_shapes", "odd_leaves", "width"]
    check_rule(tx, only=[check for check in checks if check not in skip])


@pytest.mark.parametrize("codec", ["int8", "int4", "bfloat16+8"])
@pytest.mark.parametrize(
    "spec", [PartitionSpec("data"), PartitionSpec(None, "data")], ids=["rows", "columns"]
)
def test_slots_are_sharded_like_their_parameters(codec: str, spec: PartitionSpec) -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",))
    layout = NamedSharding(mesh, spec)
    params, tx = draw(8, 2048), store(gx.adam(0.1), codec)
    update = jax.jit(tx.update)
    expected = run(gx.GradientTransformation(tx.init, update), params, [params, -params])
    spread = jax.device_put(params, layout)
    state = tx.init(spread)
    for slot in encoded(state):
        for array in slot.arrays:
            assert array.sharding.is_equivalent_to(layout, 2)
    updates, state = run(gx.GradientTransformation(tx.init, update), spread, [spread, -spread])
    for ours, theirs in zip(updates, expected[0], strict=True):
        # Programs for parts of rows differ in last digits, and now and then a number takes another level.
        assert np.isclose(ours, theirs, rtol=1e-5).mean() > 0.999
    for array in jax.tree.leaves(state.slots):
        assert array.sharding.is_equivalent_to(layout, 2)


def test_a_layout_given_for_parameters_fits_their_stored_slots() -> None:
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    params = {"table": jnp.ones((64, 64)), "bias": jnp.ones(64)}
    rows = NamedSharding(mesh, PartitionSpec("data"))
    tx = store(gx.adam(0.1))
    layouts = state_sharding(tx, params, rows)
    state = jax.jit(tx.init, out_shardings=layouts)(params)
    for array in state.slots[0].nu["table"].arrays:
        assert array.sharding.is_equivalent_to(rows, 2)


def test_row_sparse_gradients_touch_their_rows_alone() -> None:
    params = draw(16, 64)
    tx = store(gx.adam(0.1), min_size=0)
    _, state = run(tx, params, [draw(16, 64, seed=1)])
    rows = gx.RowSparse(jnp.asarray([3, 5, 3]), draw(3, 64, seed=2), (16, 64))
    update, new = tx.update(rows, state, params)
    dense, _ = tx.update(rows.to_dense(), state, params)
    np.testing.assert_allclose(update.to_dense()[3:6:2], dense[3:6:2], rtol=1e-6)
    for before, after in zip(encoded(state), encoded(new), strict=True):
        changed = np.any(np.asarray(before.decode() != after.decode()), axis=1)
        assert list(np.flatnonzero(changed)) == [3, 5]
    vector = jnp.zeros(512)
    short = store(gx.adam(0.1), min_size=0)
    with pytest.raises(TypeError, match=r"scale_by_adam\[int8\].* has no rows"):
        short.update(gx.RowSparse(jnp.asarray([3]), jnp.ones(1), (512,)), short.init(vector), vector)


def test_parts_of_another_library() -> None:
    params, grads = draw(4, 64), [draw(4, 64, seed=s) for s in range(4)]
    ours = store(gx.chain(optax.scale_by_adam(), gx.scale(-0.1)), "bfloat16+8", min_size=0)
    updates, state = run(ours, params, grads)
    inner = state[0].inner_state
    assert [slot.codec for slot in (inner.mu, inner.nu)] == [CODECS["bfloat16+8"]] * 2
    expected, _ = run(optax.adam(0.1), params, grads)
    chex.assert_trees_all_close(updates, expected, rtol=1e-3, atol=1e-5)
    # Where a name says nothing, a state stays as it is.
    unknown = store(optax.scale_by_rprop(0.1), min_size=0).init(params)
    assert not encoded(unknown)
    in_bytes, _ = run(store(optax.adam(0.1), min_size=0), params, grads)
    chex.assert_trees_all_close(in_bytes, expected, atol=0.03)


def test_tunables_stay_where_they_are() -> None:
    for tx in (gx.adam(gx.tunable(0.1)), gx.apply_if_finite(gx.adam(gx.tunable(0.1)), 2)):
        stored = store(tx, min_size=0)
        state = gx.set_hyperparams(stored.init(draw(4, 64)), learning_rate=0.0)
        update, _ = stored.update(draw(4, 64), state)
        assert (update == 0).all()
        assert gx.get_hyperparams(state, stored)["b2"] == 0.999


def test_combinators_around_and_inside() -> None:
    params, grads = draw(4, 64), [draw(4, 64, seed=s) for s in range(3)]
    schedule = {"b2": lambda count: 1 - (count + 1.0) ** -0.8}
    inside = gx.decay_schedule(store(gx.adam(0.1), "bfloat16+8", min_size=0), **schedule)
    around = store(gx.decay_schedule(gx.adam(0.1), **schedule), "bfloat16+8", min_size=0)
    expected, _ = run(gx.decay_schedule(gx.adam(0.1), **schedule), params, grads)
    for tx in (inside, around, store(inside, min_size=0)):
        updates, state = run(tx, params, grads)
        assert len(encoded(state)) == 2
        chex.assert_trees_all_close(updates, expected, rtol=1e-3, atol=1e-5)


# Kinds of numbers


class Own(NamedTuple):
    velocity: jax.Array
    energy: NonNegative
    start: Exact
    pair: tuple[NonNegative, ...]


class Outer(NamedTuple):
    below: Annotated[tuple[Any, ...], DIVISOR]
    above: Any


class Inner(NamedTuple):
    plain: jax.Array
    square: NonNegative
    nu: jax.Array


def test_annotations_say_what_a_slot_holds() -> None:
    def kinds(tree: Any, *unmarked: Kind) -> dict[str, Kind]:
        found: dict[str, Kind] = {}
        map_slots(lambda name, kind, arrays: found.setdefault(name, kind), tree, *unmarked)
        return found

    own = kinds(Own(1.0, 1.0, 1.0, (1.0, 1.0)))
    assert own == {"velocity": MOMENT, "energy": SECOND_MOMENT, "start": EXACT, "pair": SECOND_MOMENT}
    nested = kinds(Outer((Inner(1.0, 1.0, 1.0),), None))
    # A second moment under another library's name, without a mark.
    assert nested == {"plain": DIVISOR, "square": SECOND_MOMENT, "nu": DIVISOR}
    assert kinds(Outer((), Inner(1.0, 1.0, 1.0)))["plain"] == MOMENT
    assert kinds({"any": [1.0, None]}, EXACT) == {"": EXACT}
    assert kinds(gx.mechanize(gx.adam(0.1)).init(draw(2)), EXACT)["x0"] == EXACT


def test_a_rule_and_a_codec_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Halved(Codec):
        """Whole numbers of halves."""

        def of(self, kind: Kind) -> Codec:
            return Halved() if kind.signed else CODECS["int8"].of(kind)

        def encode(self, x: jax.Array, dither: Any) -> tuple[jax.Array, ...]:
            return (jnp.round(2 * x).astype(jnp.int8),)

        def decode(self, arrays: tuple[jax.Array, ...], size: int) -> jax.Array:
            return arrays[0].astype(jnp.float32) / 2

    def init(param: Any) -> Own:
        return Own(
            jnp.zeros_like(param), jnp.zeros_like(param), jnp.array(param), (jnp.zeros_like(param),) * 2
        )

    def update(grad: Any, slots: Own, param: Any, step: gx.Step) -> tuple[Any, Own]:
        pair = tuple(part + grad**2 for part in slots.pair)
        return slots.velocity + grad, Own(slots.velocity + grad, slots.energy + grad**2, slots.start, pair)

    tx = store(gx.lift(gx.Rule("own", update, init)), Halved(), min_size=0)
    assert repr(tx) == "own[Halved]()"
    grad = jnp.asarray([1.0, 0.25, 3.0])
    updates, state = run(tx, grad, [grad, grad])
    assert updates[1].tolist() == [2.0, 0.25, 6.0]  # 0.25 was rounded to no half at all
    slots = decode_stored(state).slots[0]
    assert slots.velocity.tolist() == [2.0, 0.0, 6.0]
    np.testing.assert_allclose(slots.energy, 2 * grad**2, rtol=0.07)
    np.testing.assert_allclose(slots.pair[1], 2 * grad**2, rtol=0.07)
    assert slots.start.tolist() == grad.tolist()
