"""The reference, from the public names themselves.

The directive ``public-names`` takes modules, one a line. It describes every public name that was imported
from one of them or from below it, so that a new optimizer is in the reference without a further line.
"""

import inspect
from typing import Any

from docutils import nodes
from names import aliases, homes, names_from, value_of
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


def _directive(name: str) -> str:
    """How the name is to be described."""
    value, full = value_of(name), f"gradxform.{name}"
    if inspect.isclass(value) and value is not Any:
        error = issubclass(value, BaseException)
        return f".. autoexception:: {full}" if error else f".. autoclass:: {full}\n   :members:"
    of_module = ModuleAnalyzer.for_module(homes()[name]).find_attr_docs()
    told = of_module.get(("", name.rsplit(".")[-1])) or ([_TYPES[name]] if name in _TYPES else [])
    if told and not inspect.isroutine(value):
        return "\n".join([f".. py:data:: {name}", "", *(f"   {line}" for line in told)])
    return f".. autofunction:: {full}"


_TYPES = {
    "Params": "The parameters: a pytree of arrays.",
    "Updates": "A pytree like the parameters: their gradients, and what becomes of them.",
    "State": "What a transformation remembers: a pytree of arrays.",
    "TransformInitFn": "The type of ``init``: parameters -> state.",
    "TransformUpdateFn": "The type of ``update``: gradients, state, parameters -> updates, state.",
    "Mask": "A tree of booleans like the parameters, a prefix of one, or a function from them to one.",
    "Scalar": "A Python number, or an array without axes.",
    "Schedule": "A function of the step count, which starts at 0.",
}
"""What the types are that say nothing of themselves."""


class PublicNames(SphinxDirective):
    """A table of names, and after it each of them in full."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        names = names_from([line.strip() for line in self.content if line.strip()])
        if not names:
            raise self.error(f"no public name comes from {', '.join(self.content)}")
        table = [
            "```{eval-rst}",
            ".. currentmodule:: gradxform",
            "",
            ".. autosummary::",
            "   :nosignatures:",
            "",
        ]
        described = [_directive(name) for name in names]
        lines = [*table, *(f"   {name}" for name in names), "", "\n\n".join(described), "```"]
        return self.parse_text_to_nodes("\n".join(lines))


class SecondNames(SphinxDirective):
    """A table of second names."""

    def run(self) -> list[nodes.Node]:
        rows = [
            f"| `gx.{name}` | {{py:obj}}`gx.{first} <gradxform.{first}>` |"
            for name, first in aliases().items()
            if name != first
        ]
        return self.parse_text_to_nodes("\n".join(["| name | is |", "| --- | --- |", *rows]))


def _skip(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a NamedTuple stand in its docstring already."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _resolve(app: Sphinx, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Find names that Sphinx does not find where they stand.

    A public one is described at the top level, wherever it is defined. What is no public one (an argument, a
    field, a name of another library) is set as it stands.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.rsplit(".")[-1] in homes() and (target.startswith("gradxform.") or "." not in target):
        full = f"gradxform.{target.rsplit('.')[-1]}"
        resolver = env.domains.python_domain.resolve_xref
        return resolver(env, node["refdoc"], app.builder, "obj", full, node, content)
    return content


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("public-names", PublicNames)
    app.add_directive("second-names", SecondNames)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
