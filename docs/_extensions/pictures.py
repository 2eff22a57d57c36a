"""Draws the pictures of the pages anew, from the code as it is, over the copies that git has."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def _draw(app: Sphinx, error: Exception | None) -> None:
    import figures  # it loads jax and matplotlib

    if error is None and app.builder.format == "html":
        for name in figures.FIGURES:
            figures.draw(name, Path(app.outdir) / "_images")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the drawing."""
    app.connect("build-finished", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
