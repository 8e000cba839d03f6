"""Tables on stdout, by rich."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.models.shown import visible

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "rejected": "red",
    "expired": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "waiting": "cyan",
    "queued": "dim",
}


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, numbers: Sequence[str] = (), title: str = ""
) -> None:
    """Print a table as wide as it needs to be where stdout is no terminal. `numbers` are set to the right."""
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=200)
    shown = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        title=Text(visible(title)) if title else None,
        title_justify="left",
        pad_edge=False,
    )
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        add_row(shown, *row)
    console.print(shown)


def add_row(shown: Table, *cells: str | Text) -> None:
    """One more row. What strangers wrote is neither taken for markup nor steers the terminal."""
    shown.add_row(*[_cell(cell) for cell in cells])


def _cell(cell: str | Text) -> Text:
    if isinstance(cell, str):
        return Text(visible(cell))
    return cell if visible(cell.plain) == cell.plain else Text(visible(cell.plain), style=cell.style)


def state_cell(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, ""))
