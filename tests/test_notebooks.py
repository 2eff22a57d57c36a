"""The notebooks run from top to bottom, and the outputs kept in them are of the code beside them."""

import os
import re
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # noqa: F401 a first import in a kernel would say there that it looks for fonts
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS, "there are no notebooks to test"

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: Any) -> dict[str, list[str]]:
    """What each code cell has put out: text to which stream, or a result or display of which types."""
    return {
        cell.id: [
            f"{output.output_type} {output.get('name') or ' '.join(sorted(output.get('data', {})))}"
            for output in cell.outputs
        ]
        for cell in code_cells(notebook)
    }


def without_complaint(notebook: Any) -> bool:
    return not any(
        output.startswith(("stream stderr", "error")) for of in kinds(notebook).values() for output in of
    )


@every_notebook
def test_outputs_are_kept(notebook: Path) -> None:
    kept = nbformat.read(notebook, as_version=4)
    nbformat.validate(kept)
    assert kept.metadata.kernelspec.name == "python3"
    cells = code_cells(kept)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from the top"
    assert without_complaint(kept)
    assert str(Path.home()) not in (text := notebook.read_text(encoding="utf-8"))
    assert "site-packages" not in text


@every_notebook
def test_links_lead_somewhere(notebook: Path) -> None:
    kept = nbformat.read(notebook, as_version=4)
    prose = "\n".join(cell.source for cell in kept.cells if cell.cell_type == "markdown")
    local = [link for link in re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", prose) if "://" not in link]
    assert [link for link in local if not (notebook.parent / link).exists()] == []


@every_notebook
def test_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    kept, fresh = (nbformat.read(notebook, as_version=4) for _ in range(2))
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    # As a reader would start it: without the tests' eight devices, and with pictures in the notebook.
    env = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "MPLBACKEND")}
    client = nbclient.NotebookClient(
        fresh,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**env, "IPYTHONDIR": str(tmp_path / "ipython")})
    assert without_complaint(fresh), kinds(fresh)
    assert kinds(fresh) == kinds(kept), (
        "the kept outputs are of other code: run it again and keep what comes out"
    )
