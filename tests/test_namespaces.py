"""A program that says `import gradxform as optax` finds the names of Optax's gradient side."""

import inspect
import re
from typing import Any

import optax
import pytest

import gradxform as gx

OTHER_STATES = {
    # Rules keep their state in a LiftState, so Optax's own states have no counterpart of that name.
    "AddNoiseState", "EmaState", "TraceState", "NonNegativeParamsState", "PartitionState", "NormalizeState",
    # Masked-off leaves are None.
    "MaskedNode",
}  # fmt: skip

OPTIMIZERS = {
    # Rules keep their state in a LiftState.
    "COCOBState", "DAdaptAdamWState", "DoGState", "DoWGState", "MadgradState", "MomoAdamState", "MomoState",
    "MuonState", "ProdigyState", "ScaleByAdemamixState", "ScaleBySimplifiedAdEMAMixState",
    "ScheduleFreeState",
}  # fmt: skip
"""Of `optax.contrib`: the states of its optimizers."""

AT_THE_TOP = {
    "InjectHyperparamsState", "InjectStatefulHyperparamsState", "Schedule", "StatefulSchedule",
    "WrappedSchedule", "inject_hyperparams", "inject_stateful_hyperparams",
}  # fmt: skip
"""Of `optax.schedules`: what is no schedule."""

OTHER_SUBJECTS = {"matrix_inverse_pth_root", "multi_normal", "nnls", "power_iteration"}
"""Of Optax's top level: linear algebra and distributions."""


def public(module: Any) -> set[str]:
    return {
        name
        for name in dir(module)
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    }


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("transforms", OTHER_STATES),
        ("contrib", OTHER_STATES | OPTIMIZERS),
        ("schedules", AT_THE_TOP),
        ("microbatching", set()),
        ("losses", set()),
        ("projections", set()),
        ("tree", set()),
        ("tree_utils", set()),
    ],
)
def test_a_module_of_optax(name: str, absent: set[str]) -> None:
    ours, theirs = getattr(gx, name), getattr(optax, name)
    assert public(theirs) - absent - public(ours) == set()


def test_the_top_level_of_optax() -> None:
    states = {name for name in public(optax) if re.fullmatch(r"[A-Z].*State", name)}
    absent = states | OTHER_SUBJECTS | OTHER_STATES
    assert public(optax) - absent - public(gx) == set()


def test_what_stands_in_a_module_stands_at_the_top_too() -> None:
    assert public(gx) >= AT_THE_TOP
    for module in (gx.transforms, gx.contrib):
        for name in module.__all__:
            if name not in ("ConditionFn", "ShouldSkipUpdateFunction"):
                assert getattr(gx, name) is getattr(module, name)


def _functions() -> list[Any]:
    """Of Optax's top level, its `transforms` and its `contrib`: the functions that we have too."""
    found = {}
    for module in (optax, optax.transforms, optax.contrib):
        for name in public(module):
            theirs, ours = getattr(module, name), getattr(gx, name, None)
            if inspect.isfunction(theirs) and ours is not None and name not in ALIASES:
                found[name] = theirs
    return [pytest.param(theirs, getattr(gx, name), id=name) for name, theirs in sorted(found.items())]


ALIASES = {"global_norm"}
"""Of a function that serves other trees than updates too, and calls its argument so."""

OTHER_DEFAULTS = {
    # The paper's form.
    ("adagrad", "initial_accumulator_value"), ("scale_by_rss", "initial_accumulator_value"),
    # Left out in Optax, the sign is not turned: a chain that ends with it climbs.
    ("scale_by_learning_rate", "learning_rate"),
}  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), _functions())
def test_arguments_have_optaxs_names_order_and_defaults(theirs: Any, ours: Any) -> None:
    given, known = (
        {
            p.name: p.default
            for p in inspect.signature(f).parameters.values()
            if p.kind is not p.VAR_POSITIONAL
        }
        for f in (theirs, ours)
    )
    assert list(known)[: len(given)] == list(given)
    for argument, default in given.items():
        if (theirs.__name__, argument) in OTHER_DEFAULTS:
            continue
        assert (known[argument] is inspect.Parameter.empty) == (default is inspect.Parameter.empty), argument
        if isinstance(default, int | float | bool | str | type(None)):
            assert known[argument] == default, argument
