"""What a compiled program sends between devices, read from its text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

__all__ = ["Collective", "Communication", "communication"]


class Collective(NamedTuple):
    """One place in a program where devices send each other arrays.

    Attributes:
      kind: ``"all-reduce"``, ``"reduce-scatter"``, ``"all-gather"``,
        ``"all-to-all"`` or ``"collective-permute"``.
      bytes: of the whole array on a device: before a reduction, after a gathering.
      devices: how many take part together.
      operation: the operation in the program that it comes from, as far as known.
    """

    kind: str
    bytes: int
    devices: int
    operation: str

    @property
    def sent(self) -> float:
        """The bytes that a device sends around a ring; no device can do with fewer."""
        share = (self.devices - 1) / self.devices
        return {"all-reduce": 2 * share, "collective-permute": 1}.get(self.kind, share) * self.bytes


@dataclass(frozen=True)
class Communication:
    """What `communication` returns: text when printed.

    Attributes:
      collectives: all of them, in the order of the program.
    """

    collectives: tuple[Collective, ...]

    def bytes(self, kind: str | None = None) -> int:
        """The bytes of the arrays of one kind of collective, or of all."""
        return sum(each.bytes for each in self.collectives if kind in (None, each.kind))

    def sent(self, kind: str | None = None) -> float:
        """The bytes that a device sends in one kind of collective, or in all."""
        return sum(each.sent for each in self.collectives if kind in (None, each.kind))

    def __str__(self) -> str:
        kinds = dict.fromkeys(each.kind for each in self.collectives)
        rows = [(kind, f"{self.bytes(kind):,}", f"{self.sent(kind):,.0f}") for kind in kinds]
        table = [("collective", "bytes", "sent by each device"), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join((kind.ljust(widths[0]), size.rjust(widths[1]), sent.rjust(widths[2])))
            for kind, size, sent in table
        ]
        return "\n".join(lines)

    __repr__ = __str__


def communication(compiled: Any) -> Communication:
    """What a compiled program sends between devices.

    It is read from the text of the program, so the devices need not be there:
    ``XLA_FLAGS=--xla_force_host_platform_device_count=512`` makes as many to
    compile for. What stands in the body of a loop counts once, as for one round.

    Args:
      compiled: what ``jax.jit(function).lower(...).compile()`` returns, or its text.

    Returns:
      A `Communication`.

    Raises:
      ValueError: the text has a collective that cannot be read.

    References:
      Patarasuk and Yuan, `Bandwidth optimal all-reduce algorithms for clusters of
      workstations <https://doi.org/10.1016/j.jpdc.2008.09.002>`_, 2009.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> gx.communication(jax.jit(jnp.sin).lower(1.0).compile()).bytes()
      0
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    return Communication(tuple(_collectives(text)))


_KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
_LINE = re.compile(
    rf"^\s*(?:ROOT )?\S+ = (?P<result>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\((?P<rest>.*)$",
    re.MULTILINE,
)
_FUSED = re.compile(r"^%all-reduce-scatter.*?^}", re.MULTILINE | re.DOTALL)
"""How programs for TPUs write a reduce-scatter: a sum of whole arrays and a cut, in one."""
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
"""An array's dtype, the bits in its name, and its shape, as in ``f32[8,16]``."""


def _collectives(text: str) -> Iterator[Collective]:
    fused = [found.span() for found in _FUSED.finditer(text)]
    for line in _LINE.finditer(text):
        kind, rest = line["kind"], line["rest"]
        devices = 1 if kind == "collective-permute" else _devices(rest, text)
        arrays = [
            int(bits or 8) * prod(int(size) for size in shape.split(",") if size) // 8
            for _, bits, shape in _ARRAY.findall(line["result"])
        ]
        if line["start"] and kind != "all-reduce":  # what goes in stands before what comes out
            arrays = (
                arrays[: len(arrays) // 2] if kind == "collective-permute" else arrays[len(arrays) // 2 :]
            )
        whole = devices if kind == "reduce-scatter" else 1
        if any(begin < line.start() < end for begin, end in fused):
            kind = "reduce-scatter"
        source = re.search(r'op_name="([^"]*)"', rest)
        yield Collective(kind, whole * sum(arrays), devices, source[1] if source else "")


def _devices(rest: str, text: str) -> int:
    """How many devices take part together: the size of the first group, in any of the ways to write it."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"('[^']*')=(\d+)", found[1]))
        # Of an axis split in two, only a part may take part: 'x':(2)4 is of 4, after 2.
        named = re.findall(r"('[^']*')(?::\(\d+\)(\d+))?", found[2])
        return prod(int(part or sizes[name]) for name, part in named)
    if "replica_groups={}" in rest and (found := re.search(r"num_partitions=(\d+)", text)):
        return int(found[1])
    raise ValueError(f"communication: cannot read which devices take part in {rest[:200]}")
