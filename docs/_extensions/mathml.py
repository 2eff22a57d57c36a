"""Equations as MathML, which browsers draw themselves: no script, no fonts, no network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def mathml(latex: str, block: bool = False) -> str:
    """The MathML of an equation in LaTeX.

    Raises:
      docutils.utils.math.MathError: it has a command that the converter does not know.
    """
    latex = latex.replace(r"\dots", r"\ldots").replace(r"\tfrac", r"\frac")
    latex = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", latex)
    if block and (r"\\" in latex or "&" in latex) and r"\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    written: str = tex2mathml(latex, as_block=block)
    return written


def _write(writer: Any, node: nodes.Element, block: bool) -> None:
    try:
        written = mathml(node.astext(), block)
    except MathError as error:
        _log.warning("no MathML for %s: %s", node.astext(), error, location=node)
        written = f"<code>{writer.encode(node.astext())}</code>"
    writer.body.append(f'<div class="math">{written}</div>' if block else written)
    raise nodes.SkipNode


def _inline(writer: Any, node: nodes.math) -> None:
    _write(writer, node, block=False)


def _block(writer: Any, node: nodes.math_block) -> None:
    _write(writer, node, block=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
