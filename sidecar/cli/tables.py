"""Tables on stdout, by rich."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.cli.invocation import for_terminal

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
    shown = Table(box=SIMPLE_HEAD, show_edge=False, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        # As Text: what strangers wrote is not to be taken for markup.
        shown.add_row(*(cell if isinstance(cell, Text) else Text(for_terminal(cell)) for cell in row))
    console.print(shown)


def state_cell(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, ""))
