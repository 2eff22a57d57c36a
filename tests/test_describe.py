"""What `describe` and `repr` write, and the bytes that they count."""

import unicodedata
from html.parser import HTMLParser
from typing import Any

import jax
import jax.numpy as jnp
import optax
from catalogue import Entry, each, example_params

import gradxform as gx
from gradxform.rule import Lift

PARAMS = {"w": jnp.zeros((10, 10)), "b": jnp.zeros(10, jnp.bfloat16), "none": None}


def _mixed() -> Any:
    return gx.chain(
        gx.clip(gx.tunable(1.0)),
        gx.trace(0.9, nesterov=True),
        optax.scale_by_adam(),
        gx.scale_by_learning_rate(optax.linear_schedule(1.0, 0.0, 10)),
    )


def test_a_chain_with_a_foreign_part() -> None:
    rate = "scale_by_learning_rate(polynomial_schedule)"
    head = f"part{' ' * 41}update{' ' * 34}remembers  bytes"
    rule = f"{'─' * 43}  {'─' * 38}  {'─' * 9}  {'─' * 5}"
    # Optax keeps a count and two moments in the parameters' dtypes. Ours: the trace in float32, a count, a
    # tunable and the scheduled rate, of four bytes each.
    assert str(gx.describe(_mixed(), PARAMS)).splitlines() == [
        head,
        rule,
        "clip(max_delta=tunable(1))                   u = max(−max_delta, min(max_delta, g))             0",
        "trace(decay=0.9)                             v ← g + decay · v, u = g + decay · v    trace      440",
        "scale_by_adam (optax)                                                                           844",
        f"{rate}  u = −learning_rate · g                             0",
        "state: 1,296 bytes, 11.78 a parameter",
    ]
    without = str(gx.describe(_mixed())).splitlines()
    assert len(without) == 6
    assert without[0].split() == ["part", "update", "remembers"]
    assert without[3].split() == [
        "trace(decay=0.9)",
        *["v", "←", "g", "+", "decay", "·", "v,", "u", "=", "g", "+", "decay", "·", "v"],
        "trace",
    ]


@each
def test_bytes_are_those_of_the_real_state(entry: Entry) -> None:
    tx, params = entry.make(), example_params()
    described = gx.describe(tx, params)
    state = tx.init(params)
    assert described.state_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert described.param_count == 3 + 16
    # Shapes alone will do, and what is left out of the parts' sum are the numbers that a lift keeps.
    abstract = gx.describe(tx, jax.eval_shape(lambda: params))
    assert str(abstract) == str(described)
    if isinstance(tx, Lift):
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves((state.slots, state.shared)))
        assert sum(part.state_bytes or 0 for part in described.parts) == kept
        assert all(part.equation for part in described.parts)


def test_columns_stand_under_each_other() -> None:
    """Also where a letter wears a hat, which is a character of no width."""
    text = str(gx.describe(gx.chain(gx.scale_by_adam(), gx.trace(0.9)), PARAMS)).splitlines()[:-1]
    shown = ["".join(c for c in line if not unicodedata.combining(c)) for line in text]
    assert shown != text
    place = shown[0].index("remembers")
    assert [line[place:].split()[0] for line in shown[2:]] == ["mu,", "trace"]
    assert all(line[place - 2 : place] == "  " for line in shown)


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_the_table_of_a_notebook_is_escaped() -> None:
    rule = gx.Rule("<b>bold</b>", lambda *a: a, equation="u = g & <script>alert(1)</script>")
    html = gx.describe(gx.lift(rule), PARAMS)._repr_html_()
    parser = _Cells()
    parser.feed(html)
    assert parser.tags == {"table", "tr", "th", "td", "p"}
    assert parser.cells[:7] == [
        "part", "update", "remembers", "bytes", "<b>bold</b>()", "u = g & <script>alert(1)</script>", "",
    ]  # fmt: skip


def test_one_line() -> None:
    assert repr(gx.identity()) == "identity()"
    assert repr(gx.sgd(0.1)) == "scale_by_learning_rate(0.1)"
    assert repr(gx.chain(gx.clip(1), optax.scale(2.0), gx.sgd(0.25, 0.5))) == (
        "chain(clip(max_delta=1), scale (optax), trace(decay=0.5), scale_by_learning_rate(0.25))"
    )
    assert (
        repr(gx.named_chain(("a", gx.clip(gx.tunable(1.0))))) == "named_chain(a: clip(max_delta=tunable(1)))"
    )
    assert "array[3]" in repr(gx.sgd(jnp.ones(3)))
    assert repr(gx.add_noise(0.1, 0.5, key=1)) == "add_noise(eta=0.1, gamma=0.5)"
    assert "\n" not in repr(_mixed())


def test_a_traced_hyperparameter_is_shown() -> None:
    shown = []
    jax.make_jaxpr(lambda rate: shown.append(repr(gx.sgd(rate))) or rate)(0.5)
    assert shown == ["scale_by_learning_rate(<traced float32[]>)"]


def test_of_another_library_alone() -> None:
    described = gx.describe(optax.adam(0.1), PARAMS)
    assert [part.call for part in described.parts] == ["chain (optax)"]
    assert described.state_bytes == 844
