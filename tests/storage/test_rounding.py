"""Parameters in bfloat16: the update that is lost, and the three ways to keep it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx

STEPS = 200


def trained(*last: Any, dtype: Any = jnp.bfloat16, size: int = 512, rate: float = 1e-3) -> np.ndarray:
    """Weights of 1 after 200 steps of -0.001: 0.8 in exact arithmetic."""
    params = jnp.ones(size, dtype)
    tx = gx.chain(gx.sgd(rate), *last)

    @jax.jit
    def run(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jnp.ones_like(params), state, params)
            return (gx.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, STEPS)[0][0]

    result = run(params)
    assert result.dtype == dtype
    return np.asarray(result, np.float64)


def test_to_the_nearest_a_small_update_is_lost() -> None:
    """A thousandth of the weight is below half of bfloat16's last digit, 1/256."""
    assert (trained() == 1).all()


def test_a_master_copy_and_a_compensated_sum_lose_nothing() -> None:
    exact = 1 - 1e-3 * STEPS
    for last in (gx.master_copy(), gx.compensated_sum()):
        assert abs(trained(last) - exact).max() <= 2**-8 * exact / 2 + 1e-6  # half of the last digit


def test_stochastic_rounding_is_right_on_average() -> None:
    """Within four standard errors of 0.8; a walk of independent coins, whose variance is known."""
    result = trained(gx.stochastic_rounding(3), size=4096)
    steps_in_digits = 1e-3 / 2**-8  # at and above 1/2 the digit is 2^-8
    variance = STEPS * steps_in_digits * (1 - steps_in_digits) * 2.0**-16
    assert len(set(result.tolist())) > 10
    assert abs(result.mean() - 0.8) < 4 * np.sqrt(variance / result.size)
    assert 0.5 * variance < result.var() < 2 * variance


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounding_goes_to_a_neighbour_and_is_unbiased(dtype: Any) -> None:
    """Against the dtype's own neighbours, over normal, tiny, negative, exact and large numbers."""
    x = np.float32([1.001, -3.1415927, 0.333, 1.0, -2.0, 1e-3, 6.1e-5, 3e-6, 1e-20, 123.456, 0.0])
    x = x if dtype == jnp.bfloat16 else x[x != np.float32(1e-20)]
    keys = jax.random.split(jax.random.key(0), 20_000)
    rounded = np.asarray(jax.vmap(lambda key: gx.round_stochastically(jnp.asarray(x), dtype, key))(keys))
    nearest = np.asarray(x, dtype)
    below = np.where(nearest.astype(np.float32) > x, np.nextafter(nearest, dtype(-np.inf)), nearest)
    above = np.where(nearest.astype(np.float32) < x, np.nextafter(nearest, dtype(np.inf)), nearest)
    below, above = below.astype(np.float64), above.astype(np.float64)
    assert ((rounded == below) | (rounded == above)).all()
    share = np.where(above > below, (x - below) / np.where(above > below, above - below, 1), 0)
    error = 4.5 * np.sqrt(share * (1 - share) / len(keys)) * (above - below)
    assert (abs(rounded.mean(0, dtype=np.float64) - x) <= error + 1e-12 * abs(x)).all()


def test_what_is_not_finite_stays_so() -> None:
    x = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(gx.round_stochastically(x, jnp.bfloat16, jax.random.key(0)), x)


def test_each_step_and_leaf_draws_its_own_numbers_and_a_key_its_own_run() -> None:
    params = {"a": jnp.ones(256, jnp.bfloat16), "b": jnp.ones(256, jnp.bfloat16)}
    grads = jax.tree.map(lambda p: jnp.full_like(p, 2e-3), params)

    def first_two(key: int) -> list[Any]:
        tx = gx.chain(gx.sgd(1.0), gx.stochastic_rounding(key))
        one, state = tx.update(grads, tx.init(params), params)
        two, _ = tx.update(grads, state, params)
        return [*one.values(), *two.values()]

    draws = [*first_two(0), *first_two(1)]
    assert len({np.asarray(draw).tobytes() for draw in draws}) == len(draws)
    np.testing.assert_array_equal(first_two(0)[0], draws[0])


def test_the_parameters_are_the_rounded_copy_at_every_step_with_either_librarys_addition() -> None:
    rng = np.random.default_rng(0)
    tx = gx.chain(gx.adamw(1e-2), gx.master_copy())
    for apply_updates in (gx.apply_updates, optax.apply_updates):
        params: Any = {"w": jnp.asarray(rng.normal(size=300), jnp.bfloat16), "wide": jnp.ones(3)}
        state = tx.init(params)
        assert state.slots[-1].master["wide"] is None
        for _ in range(10):
            grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
            updates, state = tx.update(grads, state, params)
            assert updates["w"].dtype == updates["wide"].dtype == jnp.float32
            params = apply_updates(params, updates)
            copy = state.slots[-1].master["w"]
            assert params["w"].dtype == jnp.bfloat16
            np.testing.assert_array_equal(params["w"], copy.astype(jnp.bfloat16))


def test_wide_leaves_are_left_as_they_are() -> None:
    params, grads = jnp.linspace(1.0, 2.0, 5), jnp.linspace(-1.0, 1.0, 5)
    expected, _ = gx.adam(0.1).update(grads, gx.adam(0.1).init(params), params)
    for last in (gx.stochastic_rounding(0), gx.master_copy()):
        tx = gx.chain(gx.adam(0.1), last)
        np.testing.assert_array_equal(tx.update(grads, tx.init(params), params)[0], expected)


def test_compensation_serves_float32_too() -> None:
    """10^4 steps of 1e-8 on a weight of 1, which float32 loses one by one."""
    with x64():
        tx = gx.chain(gx.sgd(1e-8), gx.compensated_sum())

        @jax.jit
        def run(params: Any, tx: Any = tx) -> Any:
            def step(carry: Any, _: Any) -> Any:
                params, state = carry
                updates, state = tx.update(jnp.ones_like(params), state, params)
                return (gx.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), None, 10_000)[0][0]

        result = run(jnp.ones(1, jnp.float32))
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, 1 - 1e-4, rtol=6e-8)


def test_nothing_comes_after_them_and_guards_let_them_through() -> None:
    for last in (gx.stochastic_rounding(0), gx.master_copy(), gx.compensated_sum()):
        for after in (gx.scale(0.5), optax.scale(0.5)):
            with pytest.raises(ValueError, match=r"must be the last part: what comes after it would round"):
                gx.chain(gx.sgd(0.1), last, after)
        within = gx.apply_if_finite(gx.chain(gx.sgd(0.1), last), 3)
        for parts in ([within, gx.scale(0.5)], [gx.named_chain(("all", within)), optax.scale(0.5)]):
            with pytest.raises(ValueError, match="must be the last part"):
                gx.chain(*parts)
        with pytest.raises(ValueError, match=r"lookahead.*must be the last part of all"):
            gx.lookahead(gx.chain(gx.sgd(0.1), last), 5, 0.5)
    exact = 1 - 1e-3 * STEPS
    guarded = gx.apply_if_finite(gx.chain(gx.sgd(1e-3), gx.master_copy()), 3)
    params = jnp.ones(2, jnp.bfloat16)
    state = guarded.init(params)
    for _ in range(STEPS):
        updates, state = guarded.update(jnp.ones_like(params), state, params)
        params = gx.apply_updates(params, updates)
    np.testing.assert_allclose(np.asarray(params, np.float32), exact, rtol=2**-8)


def test_a_key_is_a_key_or_an_integer() -> None:
    with pytest.raises(TypeError, match=r"stochastic_rounding: key must be jax.random.key\(0\).*got 0.5"):
        gx.stochastic_rounding(0.5)  # type: ignore[arg-type]
