"""The public names of the package, and where each of them comes from."""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gradxform

NAMESPACES = ("losses", "microbatching", "projections", "schedules", "tree", "testing")
"""Public modules with names of their own."""

OPTAX = ("contrib", "transforms", "tree_utils")
"""Public modules that hold what stands elsewhere under the names that Optax has for it."""


@cache
def homes() -> dict[str, str]:
    """Every public name, as one writes it after ``gradxform.``, and the module it comes from."""
    program = ast.parse(Path(gradxform.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: f"{statement.module}"
        for statement in ast.walk(program)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    found = {name: module for name, module in imported.items() if module != "gradxform"}
    at_top = {id(getattr(gradxform, name)) for name in found}
    for space in NAMESPACES:
        module = import_module(f"gradxform.{space}")
        for name in module.__all__:
            if id(getattr(module, name)) not in at_top:
                found[f"{space}.{name}"] = f"gradxform.{space}"
    return found


@cache
def aliases() -> dict[str, str]:
    """Second names, and what they are the second name of."""
    by_identity = {id(value_of(name)): name for name in homes()}
    first: dict[str, str] = {}
    for prefix, module in [("", gradxform), *((f"{space}.", getattr(gradxform, space)) for space in OPTAX)]:
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if name.startswith("_") or isinstance(value, ModuleType) or f"{prefix}{name}" in homes():
                continue
            if id(value) in by_identity:
                first[f"{prefix}{name}"] = by_identity[id(value)]
            else:
                by_identity[id(value)] = first[f"{prefix}{name}"] = f"{prefix}{name}"
    return first


def names_from(modules: list[str]) -> list[str]:
    """The public names from these modules and from those below them."""

    def inside(home: str) -> bool:
        return any(home == module or home.startswith(f"{module}.") for module in modules)

    return [name for name, home in homes().items() if inside(home)]


def value_of(name: str) -> Any:
    """What has the name."""
    value: Any = gradxform
    for part in name.split("."):
        value = getattr(value, part)
    return value
