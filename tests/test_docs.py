"""The pages: their code runs as it stands there, their links lead somewhere, their numbers are measured."""

import re
import sys
from pathlib import Path
from types import ModuleType

import choose
import pytest
from names import NAMESPACES, OPTAX, aliases, homes, names_from

import gradxform as gx

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_python_on_the_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(
        r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```$",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    # A module that can be imported, so that what is defined on the page can be pickled.
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("\n".join(blocks), str(page), "exec"), module.__dict__)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_how_to_choose_says_what_was_measured() -> None:
    """`python docs/choose.py` writes the page; it refuses claims that the rows do not bear out."""
    reports = choose.load()
    assert choose.page(reports) == choose.PAGE.read_text(encoding="utf-8")
    assert {row["algorithm"] for row in reports["digits"]["rows"]} == set(choose.SEVEN)


def test_how_to_choose_refuses_what_was_not_measured() -> None:
    reports = choose.load()
    for row in reports["text"]["rows"]:
        if row["algorithm"] == "rmsprop":
            row["test_accuracy"] = 0.99
    with pytest.raises(ValueError, match="the rows no longer say: Start with Adam"):
        choose.page(reports)


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    blocks = re.findall(r"^```\{public-names\}\n(.*?)^```$", pages, re.DOTALL | re.MULTILINE)
    placed = [name for block in blocks for name in names_from(block.split())]
    missing = {name: home for name, home in homes().items() if name not in placed}
    assert missing == {}, "add their modules to a page of docs/reference/"
    assert len(placed) == len(set(placed)), "a name stands on two pages"

    known = {*homes(), *aliases(), *NAMESPACES, *OPTAX}
    modules_of_the_package = {name for name in dir(gx) if isinstance(getattr(gx, name), ModuleType)}
    public = set(dir(gx)) - modules_of_the_package
    assert public - known == set()
    for space in (*NAMESPACES, *OPTAX):
        module = getattr(gx, space, None) or sys.modules[f"gradxform.{space}"]
        for name in module.__all__:
            assert f"{space}.{name}" in known or name in known, f"{space}.{name}"
