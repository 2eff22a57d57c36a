"""Every optimizer gets somewhere, and stands on the page that says how far it comes."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from benchmarks import convergence

import gradxform as gx
import gradxform.optimizers

NO_OPTIMIZERS = {"decay", "descend", "dpsgd", "optimistic_adam", "schedule_free"}
"""Parts of optimizers, wrappers, another's old name; and what needs the gradients of every example."""


@pytest.mark.parametrize("name", convergence.SETTINGS)
def test_it_descends_a_quadratic(name: str) -> None:
    start, loss = convergence.SURFACES["quadratic"][0]()
    end, _ = convergence.surface(convergence.SETTINGS[name], "quadratic")
    assert end < 0.05 * loss(start, None)


def test_every_optimizer_stands_on_the_page() -> None:
    functions = {
        name
        for module in iter_modules(gradxform.optimizers.__path__, "gradxform.optimizers.")
        for name in import_module(module.name).__all__
        if inspect.isfunction(getattr(gx, name, None))
    }
    optimizers = {
        name for name in functions - NO_OPTIMIZERS if not re.search("^scale_by|_params$|^hutchinson", name)
    }
    shown = {name.split(",")[0] for name in convergence.SETTINGS}
    assert optimizers <= shown
    page = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
    for name in shown:
        assert re.search(rf"^\| `?{name}`?[ ,]", page, re.MULTILINE), name
