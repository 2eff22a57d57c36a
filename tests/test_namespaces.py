"""A program that says `import gradxform as optax` finds the names of Optax's gradient side."""

import inspect
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


def public(module: Any) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("transforms", OTHER_STATES),
        ("contrib", OTHER_STATES | OPTIMIZERS),
        ("schedules", AT_THE_TOP),
        ("microbatching", set()),
    ],
)
def test_a_module_of_optax(name: str, absent: set[str]) -> None:
    ours, theirs = getattr(gx, name), getattr(optax, name)
    assert public(theirs) - absent - public(ours) == set()


def test_what_stands_in_a_module_stands_at_the_top_too() -> None:
    assert public(gx) >= AT_THE_TOP
    for module in (gx.transforms, gx.contrib):
        for name in module.__all__:
            if name not in ("ConditionFn", "ShouldSkipUpdateFunction"):
                assert getattr(gx, name) is getattr(module, name)


@pytest.mark.parametrize("name", sorted(public(optax.transforms) - OTHER_STATES))
def test_arguments_have_optaxs_names_order_and_defaults(name: str) -> None:
    theirs, ours = getattr(optax.transforms, name), getattr(gx.transforms, name)
    if not inspect.isfunction(theirs):
        return
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
        if isinstance(default, int | float | bool | str | type(None)):
            assert known[argument] == default, argument
