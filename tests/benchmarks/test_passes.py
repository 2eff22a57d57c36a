"""How often Adam goes through memory

One step of Adam on an array of 16.8 million numbers. It has to read parameters, gradient and both moments and
to write all but the gradient: 28 bytes a number, which is what the copy moves and what PyTorch's fused kernel
does. XLA on processors makes a loop of each result: one for each moment, and one for the parameters, which
reads the new moments again: 40 bytes (44 where that loop computes the moments anew). The rivals are other
ways to write the same equation in JAX, parameters and moments given away in each:

- *a barrier after the moments*: an `optimization_barrier` asks for what XLA does by itself.
- *complex moments*: both moments in one complex array, so that one loop writes them. Complex numbers are not
  vectorized.
- *blocks in one array*: parameters and moments side by side in an array of blocks of 4,096. One loop writes
  all, but decides for each number which of the three it is.
- *a scan over blocks* of 65,536: its results are new arrays, and the body is not shared among threads.
- *pieces joined*: slices of a million, one after the other, concatenated: a copy more.
- *pieces apart*: sixteen arrays in place of one, each of which waits for the one before, by a number of it
  that is added: what the first loop read is still in the cache for the second and the third.

The order alone does not help models as they are: with each leaf waiting for the one before, Adam's step on
ResNet-50 took 20.0 ms against 18.0 ms, on GPT-2 small 72.7 ms against 77.7 ms with quartiles that overlap
(the copies: 11.6 ms and 52.7 ms). Their large leaves would have to be in pieces too.

Slices that are written back into the whole array (`fori_loop` and `dynamic_update_slice`, or the same
unrolled) are left out: XLA copies the whole arrays for each, which takes seconds. So are reductions of
several operands over one element each: XLA takes a reduction of one element for the element. Of XLA's flags,
`--xla_cpu_use_fusion_emitters=false` is many times slower; a wider vector, fast arithmetic and the scheduler
that optimizes for concurrency, on or off, made no difference. A flag for fusions with several results is
known to the library but not accepted.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.races import Contestant, start, step_of, stepper
from benchmarks.test_stages import copying, in_torch
from jax import lax

import gradxform as gx

COUNT = 2**24
PIECE = 2**20
RATE, B1, B2, EPS = 1e-3, 0.9, 0.999, 1e-8


def moments(mu: Any, nu: Any, grad: Any, more: Any = 0.0) -> tuple[Any, Any]:
    return (B1 + more) * mu + (1 - B1) * grad, (B2 + more) * nu + (1 - B2) * grad * grad


def moved(param: Any, mu: Any, nu: Any) -> Any:
    """As after some steps, when the correction of the bias is a number like any other."""
    return param - RATE * (mu / 0.9) / (jnp.sqrt(nu / 0.9) + EPS)


def adam(param: Any, mu: Any, nu: Any, grad: Any, more: Any = 0.0) -> tuple[Any, Any, Any]:
    mu, nu = moments(mu, nu, grad, more)
    return moved(param, mu, nu), mu, nu


def with_barrier(state: Any, grad: Any) -> Any:
    param, *both = state
    mu, nu = lax.optimization_barrier(moments(*both, grad))
    return moved(param, mu, nu), mu, nu


def with_complex_moments(state: Any, grad: Any) -> Any:
    param, both = state
    param, mu, nu = adam(param, both.real, both.imag, grad)
    return param, lax.complex(mu, nu)


def in_one_array(state: Any, grad: Any) -> Any:
    return jnp.stack(adam(*jnp.moveaxis(state, 1, 0), grad.reshape(-1, state.shape[-1])), 1)


def with_scan(state: Any, grad: Any) -> Any:
    blocks = [each.reshape(-1, 2**16) for each in (*state, grad)]
    _, new = lax.scan(lambda _, block: (None, adam(*block)), None, tuple(blocks))
    return tuple(each.reshape(-1) for each in new)


def apart(state: Any, grad: Any) -> Any:
    """Each piece adds zero times a number of the last, so that it cannot begin before."""
    done, nothing = [], jnp.zeros(())
    for place, piece in enumerate(zip(*state, strict=True)):
        mu, nu = lax.optimization_barrier(
            moments(*piece[1:], lax.slice(grad, (place * PIECE,), ((place + 1) * PIECE,)), nothing)
        )
        done.append((moved(piece[0], mu, nu), mu, nu))
        nothing = 0 * done[-1][0][0]
    return tuple(zip(*done, strict=True))


def joined(state: Any, grad: Any) -> Any:
    pieces = tuple(tuple(jnp.split(each, COUNT // PIECE)) for each in state)
    return tuple(map(jnp.concatenate, apart(pieces, grad)))


def _whole() -> tuple[Any, ...]:
    return tuple(jnp.zeros(COUNT) for _ in range(3))


WAYS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[], Any]]] = {
    "a barrier after the moments": (with_barrier, _whole),
    "complex moments": (with_complex_moments, lambda: (jnp.zeros(COUNT), jnp.zeros(COUNT, jnp.complex64))),
    "blocks in one array": (in_one_array, lambda: jnp.zeros((COUNT // 4096, 3, 4096))),
    "a scan over blocks": (with_scan, _whole),
    "pieces joined": (joined, _whole),
    "pieces apart": (
        apart,
        lambda: tuple(tuple(jnp.zeros(PIECE) for _ in range(COUNT // PIECE)) for _ in range(3)),
    ),
}


def running(way: Callable[[Any, Any], Any], state: Any, grad: Any) -> Contestant:
    step = jax.jit(lambda state, grad: (way(state, grad),), donate_argnums=0)
    return stepper(step, (state,), grad, 1)


@pytest.mark.benchmark
def test_the_ways_agree() -> None:
    grad = jnp.asarray(np.random.default_rng(0).standard_normal(COUNT, np.float32))
    expected = np.concatenate([np.ravel(each) for each in jax.jit(adam)(*_whole(), grad)])
    for name, (way, begin) in WAYS.items():
        found = jax.jit(way)(begin(), grad)
        if name == "complex moments":
            found = (found[0], found[1].real, found[1].imag)
        elif name == "blocks in one array":
            found = jnp.moveaxis(found, 1, 0)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
        np.testing.assert_allclose(flat, expected, rtol=1e-5, atol=1e-9, err_msg=name)


@pytest.mark.benchmark
def test_passes(race: Any) -> None:
    params, grad = (
        jnp.asarray(np.random.default_rng(seed).standard_normal(COUNT, np.float32)) for seed in range(2)
    )
    tx = gx.adam(RATE)
    ours = stepper(jax.jit(step_of(tx), donate_argnums=(0, 1)), start(tx, params), grad, 1)
    contestants = {"gradxform": ours, "a copy": copying(28 * COUNT, 1), **in_torch("Adam", params, grad, 1)}
    contestants |= {name: running(way, begin(), grad) for name, (way, begin) in WAYS.items()}
    race("steady step", "Adam, 16.8 million numbers", contestants, rounds=31)
