"""What the package as a whole promises: light to import, typed, licensed, and no more public than it says."""

import ast
import inspect
import os
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType

import pytest

import gradxform as gx

HEAVY = ("sklearn", "matplotlib", "rich", "chex", "optax", "flax", "scipy.stats", "pandas", "torch")


def test_import_loads_only_jax() -> None:
    """Nothing that `jax` itself does not load, but the package."""
    program = (
        "import sys, jax, jax.numpy, numpy; before = set(sys.modules); import gradxform; "
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(loaded - set(sys.stdlib_module_names)));"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded, heavy = result.stdout.split("\n")[:2]
    assert set(loaded.split()) <= {"gradxform", "jax", "jaxlib"}
    assert heavy == ""


def test_it_starts_no_backend() -> None:
    """A program may still choose its devices after the import."""
    program = (
        "import gradxform, os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=3'; "
        "import jax; print(jax.device_count())"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.split() == ["3"]


def test_it_is_typed_and_licensed() -> None:
    assert resources.files("gradxform").joinpath("py.typed").is_file()
    described = metadata.metadata("gradxform")
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Version"] == gx.__version__
    needed = [name for name in metadata.requires("gradxform") or [] if "extra ==" not in name]
    assert sorted(name.split(">")[0] for name in needed) == ["jax", "jaxlib"]
    license_text = (Path(__file__).parents[1] / "LICENSE").read_text()
    assert "Apache License" in license_text
    assert "Version 2.0" in license_text


def test_training_is_loaded_when_it_is_asked_for() -> None:
    program = (
        "import sys, gradxform; rooms = ['gradxform.' + room for room in gradxform._LATER]; "
        "print(len(rooms), [room for room in rooms if room in sys.modules]); gradxform.fit; "
        "print('gradxform.training' in sys.modules, 'gradxform.comparison' in sys.modules); "
        "from gradxform import *; "
        "print(sweep.__module__, compare.__module__, adam.__module__, interop.__name__)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:3] == [
        "4 []",
        "True False",
        "gradxform.training.sweep gradxform.comparison.race gradxform.optimizers.adaptive gradxform.interop",
    ]


def test_what_is_public_is_said_so() -> None:
    """Strict type checkers take no other name from a package; those loaded later they find in a block."""
    program = "import gradxform; print(*vars(gradxform))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in result.stdout.split() if not name.startswith("_")}
    assert {name for name in loaded if not isinstance(getattr(gx, name), ModuleType)} <= set(gx.__all__)
    assert len(gx.__all__) == len(set(gx.__all__))
    tree = ast.parse(inspect.getsource(gx))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == set(gx.__all__) - loaded


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'gradxform' has no attribute 'adamm'"):
        gx.adamm  # noqa: B018
    assert not hasattr(gx, "__wrapped__")


def test_every_public_name_is_documented() -> None:
    for name in dir(gx):
        value = getattr(gx, name)
        if isinstance(value, ModuleType) or getattr(value, "__module__", "") == "typing":
            continue
        if callable(value) and getattr(value, "__module__", "").startswith("gradxform"):
            assert value.__doc__, name
            assert value.__doc__.strip()[0].isupper() or value.__doc__.startswith(":math:"), name


@pytest.mark.parametrize(
    "module", [gx, gx.losses, gx.projections, gx.schedules, gx.tree], ids=lambda module: module.__name__
)
def test_every_public_function_says_what_it_takes_and_gives_and_shows_it(module: ModuleType) -> None:
    names = getattr(module, "__all__", [name for name in dir(module) if not name.startswith("_")])
    functions = [getattr(module, name) for name in names if inspect.isfunction(getattr(module, name))]
    assert functions
    for function in functions:
        described = inspect.getdoc(function) or ""
        wanted = ["Returns:", ">>> "] + ["Args:"] * bool(inspect.signature(function).parameters)
        assert [word for word in wanted if word not in described] == [], function.__qualname__
