import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradxform.training import batches, take

KEY = jax.random.key(7)


# Few sizes, because each is compiled anew.
@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from([1, 2, 9, 12]), part=st.floats(0, 1), drop=st.booleans(), seed=st.integers(0, 2**31)
)
def test_an_epoch_holds_every_example_once(size, part, drop, seed):
    batch_size = 1 + int(part * (size - 1))
    plan = batches(size, batch_size, drop_last=drop)
    key = jax.random.key(seed)
    full, short = np.asarray(plan.epoch(key)), np.asarray(plan.short(key))
    assert full.shape == (size // batch_size, batch_size)
    assert short.shape == (plan.remainder,)
    assert plan.steps_per_epoch == full.shape[0] + (short.size > 0)
    drawn = np.concatenate([full.ravel(), short])
    if drop:
        assert len(np.unique(drawn)) == len(drawn) == size - size % batch_size
        assert drawn.min() >= 0
        assert drawn.max() < size
    else:
        assert sorted(drawn.tolist()) == list(range(size))


def test_epochs_are_shuffled_anew_and_uniformly():
    plan = batches(12, 4)
    keys = jax.random.split(KEY, 600)
    drawn = np.asarray(jax.jit(jax.vmap(plan.epoch))(keys)).reshape(600, 12)
    assert len(np.unique(drawn, axis=0)) == 600
    # Example 0 is at each of the 12 places 50 times of 600, give or take six standard deviations.
    places = np.bincount(np.argmin(drawn, axis=1), minlength=12)
    assert np.all(np.abs(places - 50) < 6 * np.sqrt(50 * 11 / 12))


def test_replacement_draws_each_example_independently():
    plan = batches(10, 4, replacement=True)
    keys = jax.random.split(KEY, 1000)
    drawn = np.asarray(jax.jit(jax.vmap(plan.epoch))(keys))
    assert drawn.shape == (1000, 2, 4)
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert np.all(np.abs(counts - 800) < 6 * np.sqrt(8000 * 0.09))
    # Four of ten without a double happens with probability 10·9·8·7 / 10⁴ = 0.504.
    without = np.mean([len(set(batch)) == 4 for batch in drawn.reshape(-1, 4).tolist()])
    assert abs(without - 0.504) < 6 * np.sqrt(0.25 / 2000)
    assert not batches(10, replacement=True).whole


def test_the_whole_data_set_is_left_in_order():
    plan = batches(np.zeros((5, 2)))
    assert plan.whole
    assert (plan.batch_size, plan.steps_per_epoch, plan.remainder) == (5, 1, 0)
    assert plan.epoch(KEY).tolist() == [[0, 1, 2, 3, 4]]


def test_at_names_the_batches_of_all_epochs_in_order():
    plan = batches(10, 4)
    for epoch in range(2):
        three = [np.asarray(plan.at(KEY, 3 * epoch + i)).tolist() for i in range(3)]
        assert [len(batch) for batch in three] == [4, 4, 2]
        assert sorted(example for batch in three for example in batch) == list(range(10))
    assert plan.at(KEY, 0).tolist() != plan.at(KEY, 3).tolist()


@pytest.mark.parametrize("indices", [[3], [4, 0, 4], [[1, 2], [3, 0]]])
def test_take_gathers_rows_of_any_tree(indices):
    data = {"x": np.arange(30.0).reshape(5, 3, 2), "y": (jnp.arange(5), None)}
    taken = jax.jit(take)(data, jnp.array(indices))
    np.testing.assert_array_equal(taken["x"], data["x"][np.array(indices)])
    np.testing.assert_array_equal(taken["y"][0], np.array(indices))
    assert taken["y"][1] is None


def test_a_plan_is_a_static_argument():
    epoch = jax.jit(lambda plan, key: plan.epoch(key), static_argnums=0)
    np.testing.assert_array_equal(epoch(batches(9, 2), KEY), batches(9, 2).epoch(KEY))


@pytest.mark.parametrize(
    ("data", "batch_size", "error", "message"),
    [
        (
            {"a": np.zeros((4, 2)), "b": [np.zeros(3)]},
            None,
            ValueError,
            r"data\['a'\] has 4 .*data\['b'\]\[0\] has 3",
        ),
        ({"a": np.zeros((0, 2))}, None, ValueError, "empty"),
        (0, None, ValueError, "empty"),
        ({}, None, ValueError, "no arrays"),
        ({"a": [1.0, 2.0]}, None, ValueError, r"data\['a'\]\[0\] is a single number"),
        (5, 0, ValueError, "between 1 and the number of examples, 5; got 0"),
        (5, 6, ValueError, "got 6"),
        (5, 2.0, TypeError, "integer"),
        (5, True, TypeError, "integer"),
    ],
)
def test_errors(data, batch_size, error, message):
    with pytest.raises(error, match=message):
        batches(data, batch_size)
