"""Tables of the documentation that the models know better than any hand: kept between markers in the text."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from scripts.schema.meanings import ERRORS, EVENTS, STATES, STOPS
from scripts.schema.subjects import CHANNELS, Channel
from sidecar.errors import STATUS_CODES, ErrorCode
from sidecar.models.event import EventType
from sidecar.models.job import TERMINAL
from sidecar.models.result import StopReason

PAGES = ("docs/protocol.md", "schemas/README.md")
_SECTION = re.compile(r"(?s)(<!-- table:(\w+) -->\n).*?(<!-- end -->)")


def render() -> dict[str, str]:
    """The text of every table by its name."""
    errors = [(f"`{code}`", str(STATUS_CODES[code]), ERRORS[code]) for code in get_args(ErrorCode)]
    states = [(f"`{state}`", "yes" if state in TERMINAL else "no", text) for state, text in STATES.items()]
    stops = [(f"`{reason}`", STOPS[reason]) for reason in get_args(StopReason)]
    events = [(f"`{kind}`", EVENTS[kind]) for kind in get_args(EventType)]
    return {
        "errors": _table(("code", "number", "meaning"), errors),
        "states": _table(("state", "final", "meaning"), states),
        "stop_reasons": _table(("stop reason", "meaning"), stops),
        "events": _table(("type", "data"), events),
        "subjects": _table(("subject", "kind", "what"), [_subject(channel) for channel in CHANNELS]),
    }


def check(root: Path) -> list[str]:
    """Pages whose tables differ from the models."""
    return [f"{path} has tables that differ from the models" for path, _ in _outdated(root)]


def write(root: Path) -> list[str]:
    """Put the tables into the pages anew. Returns the pages that changed."""
    changed: list[str] = []
    for path, text in _outdated(root):
        (root / path).write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


def _outdated(root: Path) -> list[tuple[str, str]]:
    texts = render()
    found: list[tuple[str, str]] = []
    for path in PAGES:
        page = root / path
        if page.is_file():
            old = page.read_text(encoding="utf-8")
            new = _SECTION.sub(lambda m: f"{m[1]}{texts[m[2]]}{m[3]}", old)
            if new != old:
                found.append((path, new))
    return found


def _subject(channel: Channel) -> tuple[str, str, str]:
    kind = "event" if channel.direction == "send" else "publish"
    if channel.reply:
        kind = "the sidecar asks" if channel.direction == "send" else "request/reply"
    subject = channel.subject.replace("{", "<").replace("}", ">")
    return f"`llm.v1.{subject}`", kind, channel.summary


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines) + "\n"
