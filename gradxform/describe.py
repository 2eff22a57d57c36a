"""Reading a transformation back: its parts, equations, hyperparameters and memory."""

import html
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from gradxform.chain import Chain, NamedChain
from gradxform.hyperparams import show
from gradxform.rule import Lift, Rule
from gradxform.transformation import GradientTransformation, Params
from gradxform.trees import tree_bytes
from gradxform.wrappers.wrapper import Wrapper

__all__ = ["Description", "Part", "describe"]


class Part(NamedTuple):
    """One row of a description.

    Attributes:
      call: the part as one would write it.
      equation: its update in one line; empty for parts of other libraries.
      remembers: the names of its slots.
      state_bytes: the bytes of its state, if parameters were given.
    """

    call: str
    equation: str
    remembers: tuple[str, ...]
    state_bytes: int | None


@dataclass(frozen=True)
class Description:
    """What `describe` returns: text when printed, a table in a notebook.

    Attributes:
      parts: a row for each part, in order.
      state_bytes: the bytes of the whole state, if parameters were given.
      param_count: the number of parameters, if they were given.
    """

    parts: tuple[Part, ...]
    state_bytes: int | None = None
    param_count: int | None = None

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = ["part", "update", "remembers"] + (["bytes"] if self.state_bytes is not None else [])
        rows = [
            [part.call, part.equation, ", ".join(part.remembers)]
            + ([f"{part.state_bytes:,}"] if part.state_bytes is not None else [])
            for part in self.parts
        ]
        return head, rows

    def _footer(self) -> str:
        if self.state_bytes is None or not self.param_count:
            return ""
        each = self.state_bytes / self.param_count
        return f"state: {self.state_bytes:,} bytes, {each:.2f} a parameter"

    def __str__(self) -> str:
        head, rows = self._table()
        widths = [max(map(_width, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in [head, ["─" * width for width in widths], *rows]
        ]
        return "\n".join([*lines, self._footer()]).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows = self._table()

        def line(cells: list[str], tag: str) -> str:
            return (
                "<tr>"
                + "".join(f"<{tag} style='text-align:left'>{html.escape(c)}</{tag}>" for c in cells)
                + "</tr>"
            )

        body = line(head, "th") + "".join(line(row, "td") for row in rows)
        return f"<table>{body}</table><p>{html.escape(self._footer())}</p>"


def describe(tx: GradientTransformation, params: Params | None = None) -> Description:
    """A transformation as a person would write it.

    Args:
      tx: any transformation; parts of other libraries appear by name.
      params: the parameters, or their shapes and dtypes; given, the bytes of
        state are counted.

    Returns:
      A `Description`: printed it is a table in plain text, in a notebook a table.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> print(gx.describe(gx.sgd(0.1, momentum=0.9), {"w": jnp.zeros((3, 4))}))
      part                         update                    remembers  bytes
      ───────────────────────────  ────────────────────────  ─────────  ─────
      trace(decay=0.9)             v ← g + decay · v, u = v  trace      48
      scale_by_learning_rate(0.1)  u = −learning_rate · g               0
      state: 48 bytes, 4.00 a parameter
    """
    state = None if params is None else jax.eval_shape(tx.init, params)
    parts = tuple(_parts(tx, state))
    if params is None:
        return Description(parts)
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: params)))
    return Description(parts, tree_bytes(state), count)


def _parts(tx: Any, state: Any) -> Iterator[Part]:
    if isinstance(tx, Lift):
        for r, rule in enumerate(tx.rules):
            kept = None if state is None else tree_bytes((state.slots[r], state.shared[r]))
            yield Part(call(rule), rule.equation, _slot_names(rule), kept)
    elif isinstance(tx, Chain):
        for i, part in enumerate(tx.parts):
            yield from _parts(part, None if state is None else state[i])
    elif isinstance(tx, NamedChain):
        for name, part in tx.parts.items():
            for row in _parts(part, None if state is None else state[name]):
                yield row._replace(call=f"{name}: {row.call}")
    elif isinstance(tx, Wrapper):
        inner = None if state is None else tx.inner_state(state)
        yield Part(
            f"{tx.call} around", "", (), None if state is None else tree_bytes(state) - tree_bytes(inner)
        )
        for row in _parts(tx.inner, inner):
            yield row._replace(call=f"  {row.call}")
    else:
        yield Part(_foreign(tx), "", (), None if state is None else tree_bytes(state))


def _width(text: str) -> int:
    """How many columns the text takes; the hat of an m̂ takes none."""
    return sum(not unicodedata.combining(character) for character in text)


def _slot_names(rule: Rule) -> tuple[str, ...]:
    slots = jax.eval_shape(rule.init, jax.ShapeDtypeStruct((1, 1), "float32"))
    return (*getattr(slots, "_fields", ()), *getattr(rule.shared, "_fields", ()))


def _foreign(tx: Any) -> str:
    name = getattr(tx.update, "__qualname__", repr(tx.update)).split(".")[0]
    return f"{name} ({getattr(tx.update, '__module__', '?').split('.')[0]})"


def call(rule: Rule) -> str:
    """The rule as one would write it."""
    given = {k: v for k, v in rule.hyperparams.items() if not (rule.random and k == "key")}
    if len(given) == 1 and next(iter(given)) in rule.name:
        arguments = [show(value) for value in given.values()]
    else:
        arguments = [f"{name}={show(value)}" for name, value in given.items()]
    if rule.group:
        return f"{rule.group}: {rule.name}({', '.join(arguments)})"
    if rule.mask is not None:
        arguments.append("mask=...")
    return f"{rule.name}({', '.join(arguments)})"


def one_line(tx: GradientTransformation) -> str:
    """The transformation in one line: ``chain(...)`` of its parts."""
    if isinstance(tx, Wrapper):
        return f"{tx.call} around {one_line(tx.inner)}"
    calls = [part.call for part in _parts(tx, None)]
    if isinstance(tx, NamedChain):
        return f"named_chain({', '.join(calls)})"
    if not calls:
        return "identity()"
    return calls[0] if len(calls) == 1 else f"chain({', '.join(calls)})"
