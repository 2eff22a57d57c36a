"""Muon against Optax's: to trace, and a compiled step on the matrices of a GPT-2 small."""

from collections.abc import Callable
from typing import Any

import jax
import optax
import pytest

import gradxform as gx


def _of_blocks(library: Any) -> Any:
    """The usual way: the embeddings, which are matrices too, go to AdamW."""
    numbers = library.contrib.MuonDimensionNumbers()

    def choose(params: Any) -> Any:
        return {
            **dict.fromkeys(params),
            "blocks": jax.tree.map(lambda param: numbers if param.ndim == 2 else None, params["blocks"]),
        }

    return library.contrib.muon(1e-3, muon_weight_dimension_numbers=choose)


VARIANTS: dict[str, Callable[[Any], Any]] = {
    "Muon": lambda library: library.contrib.muon(1e-3),
    "Muon of the blocks": _of_blocks,
}

each = pytest.mark.parametrize("variant", VARIANTS)


def _builders(variant: str) -> list[Callable[[], Any]]:
    return [lambda library=library: VARIANTS[variant](library) for library in (gx, optax)]


@pytest.mark.benchmark(group="trace of Muon")
@pytest.mark.parametrize(
    ("tree_name", "variant"),
    [("200 leaves", "Muon"), ("GPT-2 small", "Muon"), ("GPT-2 small", "Muon of the blocks")],
    indirect=["tree_name"],
)
def test_first_trace_of_muon(race: Any, tracing: Any, tree_name: str, variant: str) -> None:
    race(f"first trace, {variant}, {tree_name}", *map(tracing, _builders(variant)), rounds=9, at_most=0.5)


@pytest.mark.benchmark(group="compiled step of Muon")
@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
@each
def test_compiled_step_of_muon(race: Any, stepping: Any, tree_name: str, variant: str) -> None:
    contestants = [stepping(build, 1) for build in _builders(variant)]
    race(f"compiled step, {variant}, {tree_name}", *contestants, rounds=3, at_most=0.8)
