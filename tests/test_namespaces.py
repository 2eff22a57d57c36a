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
    "COCOBState", "DAdaptAdamWState", "DoGState", "DoWGState", "GaLoreDimensionNumbers", "GaLoreState",
    "HutchinsonState", "MadgradState", "MechanicState", "MomoAdamState", "MomoState", "MuonDimensionNumbers",
    "MuonState", "ProdigyState", "SAMState", "ScaleByAdemamixState", "ScaleBySimplifiedAdEMAMixState",
    "ScheduleFreeState", "SophiaState", "acprop", "ademamix", "adopt", "cocob", "dadapt_adamw", "dog", "dowg",
    "galore", "hutchinson_estimator_diag_hessian", "madgrad", "mechanize", "momo", "momo_adam", "muon",
    "prodigy", "sam", "scale_by_acprop", "scale_by_ademamix", "scale_by_adopt", "scale_by_cocob",
    "scale_by_galore", "scale_by_madgrad", "scale_by_muon", "scale_by_simplified_ademamix", "schedule_free",
    "schedule_free_adamw", "schedule_free_eval_params", "schedule_free_sgd", "simplified_ademamix", "sophia",
}  # fmt: skip
"""Of `optax.contrib`: what belongs to the optimizers."""

AT_THE_TOP = {
    "InjectHyperparamsState", "InjectStatefulHyperparamsState", "Schedule", "StatefulSchedule",
    "WrappedSchedule", "inject_hyperparams", "inject_stateful_hyperparams",
}  # fmt: skip
"""Of `optax.schedules`: what is no schedule."""

OPTIMIZERS_AT_THE_TOP = {
    "LookaheadParams", "ZoomLinesearchInfo", "adabelief", "adafactor", "adamax", "adamaxw", "adamw", "adan",
    "amsgrad", "fromage", "lamb", "lars", "lbfgs", "lion", "lookahead", "nadam", "nadamw", "noisy_sgd",
    "novograd", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent", "polyak_sgd", "radam",
    "rprop", "scale_by_adamax", "scale_by_adan", "scale_by_amsgrad", "scale_by_backtracking_linesearch",
    "scale_by_belief", "scale_by_distance_over_gradients", "scale_by_factored_rms", "scale_by_lbfgs",
    "scale_by_lion", "scale_by_novograd", "scale_by_optimistic_gradient", "scale_by_polyak", "scale_by_radam",
    "scale_by_rprop", "scale_by_sign", "scale_by_sm3", "scale_by_yogi", "scale_by_zoom_linesearch",
    "sign_sgd", "signum", "sm3", "value_and_grad_from_state", "yogi",
}  # fmt: skip
"""Of Optax's top level: what belongs to the optimizers."""

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
    absent = states | OPTIMIZERS_AT_THE_TOP | OTHER_SUBJECTS | OTHER_STATES
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

PAPERS_DEFAULT = {("adagrad", "initial_accumulator_value"), ("scale_by_rss", "initial_accumulator_value")}


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
        assert (known[argument] is inspect.Parameter.empty) == (default is inspect.Parameter.empty), argument
        if (theirs.__name__, argument) in PAPERS_DEFAULT:
            continue
        if isinstance(default, int | float | bool | str | type(None)):
            assert known[argument] == default, argument
