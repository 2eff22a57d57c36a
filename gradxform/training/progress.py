"""The progress bar: the loss, steps a second and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeAlias

Update: TypeAlias = Callable[[int, float, float], None]
"""Called with the steps done, the loss and the steps a second."""

__all__ = ["Update", "progress_bar"]


@contextmanager
def progress_bar(progress: Any, total: int | None) -> Iterator[Update]:
    """A progress bar by rich.

    Args:
      progress: ``True`` or ``False`` to force it on or off, ``None`` for on
        where there is rich and a terminal, or a notebook with ipywidgets; or a
        ``rich.console.Console`` to draw it on.
      total: how many steps there are to do, if that is known.

    Yields:
      The function to report with.

    Raises:
      ModuleNotFoundError: it is forced on, and rich is not installed.
    """
    console = None if progress is False else _console(progress)
    if console is None:
        yield lambda done, loss, rate: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("step {task.fields[steps]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
        TextColumn("{task.fields[rate]:,.0f} steps/s"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console) as bar:
        of = "" if total is None else f"/{total:,}"
        task = bar.add_task("", total=total, steps=f"0{of}", loss=float("nan"), rate=0.0)

        def update(done: int, loss: float, rate: float) -> None:
            bar.update(task, completed=done, steps=f"{done:,}{of}", loss=loss, rate=rate)

        yield update


def _console(progress: Any) -> Any:
    """Where to draw, if anywhere."""
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        if progress is None:
            return None
        raise ModuleNotFoundError(
            "fit: progress=True needs rich: pip install 'gradxform[compare]', or pass progress=False"
        ) from error
    if isinstance(progress, Console):
        return progress
    console = Console(stderr=True)
    # Without ipywidgets rich draws nothing in a notebook but a warning.
    notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    return console if progress or console.is_terminal or notebook else None
