"""Brings the repository's notebooks, with the outputs that are kept in them, among the pages."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def _copy(app: Sphinx) -> None:
    pages = Path(app.srcdir)
    for notebook in (pages.parent / "notebooks").glob("*.ipynb"):
        text = (
            notebook.read_text(encoding="utf-8")
            .replace("(../docs/notebooks/", "(")
            .replace("(../docs/", "(../")
        )
        (pages / "notebooks" / notebook.name).write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the copying."""
    app.connect("builder-inited", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
