import io
import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import gradxform as gx
from gradxform.training import fit


def train(**arguments):
    return fit(
        lambda w, batch: jnp.mean((w - batch) ** 2), 0.0, np.ones(8), gx.sgd(0.1), batch_size=2, **arguments
    )


def test_the_bar_shows_steps_loss_speed_and_time_left():
    screen = io.StringIO()
    result = train(steps=1234, progress=Console(file=screen, force_terminal=True, width=120))
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).strip().splitlines()[-1]
    assert "step 1,234/1,234" in last
    assert f"loss {result.history.loss[-1]:.4g}" in last
    assert re.search(r"[\d,]+ steps/s", last)
    assert "0:00:00" in last


def test_it_is_off_where_there_is_no_terminal(capfd):
    train(steps=4)
    train(steps=4, progress=False)
    assert capfd.readouterr() == ("", "")
    train(steps=4, progress=True)
    assert "step 4/4" in capfd.readouterr().err


def test_in_a_notebook_it_needs_ipywidgets(monkeypatch, capfd):
    class AskedError(Exception):
        """Raised where rich makes its widget."""

    def make_widget():
        raise AskedError

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if not installed: rich would warn
    train(steps=4)
    assert capfd.readouterr() == ("", "")

    installed = ModuleType("ipywidgets")
    installed.__spec__, installed.Output = ModuleSpec("ipywidgets", None), make_widget
    monkeypatch.setitem(sys.modules, "ipywidgets", installed)
    with pytest.raises(AskedError):
        train(steps=4)


def test_without_rich_it_is_off_unless_forced(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert train(steps=4).step == 4
    with pytest.raises(ModuleNotFoundError, match=r"gradxform\[compare\]"):
        train(steps=4, progress=True)
