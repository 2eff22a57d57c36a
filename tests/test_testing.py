"""The checks find what they are there to find, and nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx
from gradxform.testing import CHECKS, check_rule


class Kept(NamedTuple):
    kept: Any


def keep(param: Any) -> Kept:
    return Kept(gx.slot_like(param))


def rule(update: Any, init: Any = None, **more: Any) -> gx.Rule:
    return gx.Rule("broken", update, *(() if init is None else (init,)), **more)


calls: list[int] = []


def _counts_calls(grad: Any, slots: Any, param: Any, step: Any) -> Any:
    calls.append(1)
    return grad * len(calls), slots


def _draws(grad: Any, slots: Any, param: Any, step: Any) -> Any:
    return grad + np.random.normal(), slots


def _branches(grad: Any, slots: Any, param: Any, step: Any) -> Any:
    return (grad if grad.sum() > 0 else -grad), slots


def _norm(grad: Any, slots: Any, param: Any, step: Any) -> Any:
    return gx.safe_divide(grad, gx.safe_sqrt(gx.abs_squared(grad).sum())), slots


def _root_mean(grad: Any, slots: Any, param: Any, step: Any) -> Any:
    kept = gx.ema_of(slots.kept, grad**2, 0.9)
    return gx.safe_divide(grad, gx.safe_sqrt(kept)), Kept(kept)


def _local_class() -> Any:
    class Local(NamedTuple):
        kept: Any

    return Local


_Local = _local_class()


def _raw(update: Any, init: Any = lambda params: jax.tree.map(jnp.zeros_like, params)) -> Any:
    def mapped(grads: Any, state: Any, params: Any = None) -> Any:
        both = jax.tree.map(update, grads, state)
        return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], grads, both) for i in (0, 1))

    return gx.GradientTransformation(init, mapped)


BROKEN: list[tuple[str, Any, str]] = [
    ("pure", rule(_counts_calls), "traced twice"),
    ("pure", rule(_draws), r"random numbers come from step\.key"),
    ("runs_alike", rule(_branches), r"jnp\.where"),
    (
        "runs_alike",
        rule(lambda g, s, p, step: (g, s), lambda p: Kept(gx.slot_like(p, float(jnp.sum(p))))),
        "float",
    ),
    ("runs_alike", rule(lambda g, s, p, step: (g * np.asarray(g).max(), s)), "jnp for np"),
    ("zero_gradients", rule(lambda g, s, p, step: (g / abs(g), s)), "not finite.*safe_divide"),
    ("zero_gradients", rule(lambda g, s, p, step: (g + 1, s)), "is not 0.*rests=False"),
    ("odd_leaves", rule(lambda g, s, p, step: (g * g.max(), s), scope="array"), "zero-size.*'empty'"),
    ("complex_numbers", rule(_root_mean, keep), r"gx\.abs_squared"),
    ("element_scope", rule(_norm), "scope='array'"),
    ("says_if_it_needs_params", rule(lambda g, s, p, step: (g * abs(p), s)), "needs_params=True"),
    ("pickles", rule(lambda g, s, p, step: (g, s), lambda p: _Local(gx.slot_like(p))), "top of a module"),
    (
        "state_keeps_its_type",
        rule(lambda g, s, p, step: (g.sum(), s), scope="array"),
        r"into an update of shape \(\).*broken updated params",
    ),
    (
        "state_keeps_its_type",
        _raw(lambda g, s: (g, (s + g).astype(jnp.float16))),
        r"float32.* at first and .*float16.* after step 1",
    ),
    ("state_keeps_its_type", _raw(lambda g, s: (g, s), lambda params: params), "same buffer as params"),
    (
        "half_precision",
        _raw(lambda g, s: (0.9 * s + g, 0.9 * s + g)),
        "bfloat16 and float32.*wide=False",
    ),
    (
        "bad_input",
        gx.GradientTransformation(lambda params: (), lambda grads, state, params=None: (grads, state)),
        r"\['layers'\]\[0\] are not refused",
    ),
]


@pytest.mark.parametrize(("check", "broken", "message"), BROKEN)
def test_a_defect_is_found_and_named(check: str, broken: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)^check_rule: .*{check!r}.*{message}"):
        check_rule(broken)


def test_with_64_bit_numbers_a_change_of_width_is_found() -> None:
    widened = rule(lambda grad, slots, param, step: (grad * np.ones(grad.shape), slots), scope="array")
    check_rule(widened, only=["width"])  # there are no 64-bit numbers
    with x64(), pytest.raises(AssertionError, match=r"'width'.*with float32 it has arrays of .*float64"):
        check_rule(widened, only=["width"])


@pytest.mark.parametrize(
    ("tx", "options"),
    [
        (gx.Rule("double", lambda grad, slots, param, step: (2 * grad, slots)), {}),
        (gx.adamw(gx.tunable(0.1)), {"rests": False}),
        (gx.chain(optax.scale(2.0), gx.trace(0.9)), {"skip": ["bad_input"]}),
        (gx.polyak_sgd(), {"extra": {"value": 2.0}}),
        (gx.scale_by_muon(), {"params": {"w": np.ones((3, 2), "float32")}, "skip": ["complex_numbers"]}),
        (gx.chain(gx.sgd(0.1), gx.master_copy()), {}),
        (gx.chain(gx.sgd(0.1), gx.stochastic_rounding(0)), {}),
        (optax.sgd(0.1, momentum=0.9), {"wide": False, "skip": ["bad_input", "odd_leaves"]}),
    ],
)
def test_what_is_good_passes(tx: Any, options: Any) -> None:
    check_rule(tx, **options)


def test_only_some_checks() -> None:
    nan = rule(lambda grad, slots, param, step: (grad / abs(grad), slots))
    check_rule(nan, skip=["zero_gradients"])
    check_rule(nan, only=["runs_alike", "pickles"])
    with pytest.raises(ValueError, match=r"no check 'zero'; there are state_keeps_its_type, pure"):
        check_rule(nan, only=["zero"])
    with pytest.raises(ValueError, match="no check 'all'"):
        check_rule(nan, skip=["all"])


def test_every_check_is_described() -> None:
    assert [name for name in CHECKS if f"``{name}``" not in (check_rule.__doc__ or "")] == []
