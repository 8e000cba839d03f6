"""What strangers wrote goes to terminals by one exit, which lets nothing steer them."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sidecar.cli import config_command, tables
from sidecar.cli.config_command import hide_secrets
from sidecar.cli.invocation import Invocation
from sidecar.cli.view import TextView
from sidecar.models.event import Delta, Event, Status, ToolActivity
from sidecar.models.result import ErrorInfo, Output, Result
from sidecar.models.shown import visible, visible_json

HOSTILE = (
    "\x1b]52;c;cm0gLXJm\x07", "\x1b[2J", "\x1b]8;;http://x\x1b\\\\y", "a\rb", "\x9b2J", "\x9d52;c;eA==\x9c",
    "\u202ed\u2066e",
    "\u200f", "\x7f", "\u2028", "\U000e0041", "\x00", "\x08",
)  # fmt: skip
STEERING = {c for text in HOSTILE for c in text if not c.isascii() or ord(c) < 32 or ord(c) == 127}
ALL = "[red]x[/red] " + " ".join(HOSTILE)


class Screen:
    """Both streams of a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, streams: "pytest.CaptureFixture[str]") -> None:
        self._monkeypatch = monkeypatch
        self._streams = streams
        self._text = ""

    def on(self) -> None:
        """From now on; pytest gives a test other streams than its fixtures."""
        for stream in (sys.stdout, sys.stderr):
            self._monkeypatch.setattr(stream, "isatty", lambda: True)

    def getvalue(self) -> str:
        self._text += "".join(self._streams.readouterr())
        return self._text


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]") -> Screen:
    return Screen(monkeypatch, capsys)


def steering(text: str) -> set[str]:
    """What is left of what could steer; click's own colours and line feeds apart."""
    for own in ("\x1b[0m", "\x1b[2m"):
        text = text.replace(own, "")
    return STEERING & set(text)


def event(data: Any) -> Event:
    return Event(
        job="j", tenant="t", type="status", attempt=1, n=1, time="2026-01-01T00:00:00Z", metadata={}, data=data
    )


EVENTS = [
    Status(state="running", model=ALL, region=ALL, reason=ALL),
    Status(state="retrying", next=ALL, error=ErrorInfo(code="model_error", message=ALL)),
    ToolActivity(phase="failed", tool=ALL, error=ErrorInfo(code="tool_failed", message=ALL)),
    Delta(index=0, text=ALL),
    Result(
        state="failed",
        model=ALL,
        output=Output(text=ALL),
        error=ErrorInfo(code="model_error", message=ALL),
        warnings=(ALL,),
    ),
]


def test_a_followed_job_steers_no_terminal(screen: Screen) -> None:
    screen.on()
    view = TextView(Invocation())
    for data in EVENTS:
        view.show(event(data))
    assert not steering(screen.getvalue())
    assert "<U+001B>]52" in screen.getvalue()


def test_json_escapes_what_could_steer_and_says_the_same(screen: Screen) -> None:
    for data in EVENTS:
        Invocation().json(event(data))
    lines = screen.getvalue().splitlines()
    assert not steering(screen.getvalue())
    assert json.loads(lines[3])["data"]["text"] == ALL


def test_errors_steer_no_terminal(screen: Screen) -> None:
    screen.on()
    Invocation().complain(ALL)
    Invocation().data(ALL)
    assert not steering(screen.getvalue())


def test_tables_take_nothing_for_markup_and_steer_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(tables, "Console", lambda **_: Console(file=out, width=400))
    tables.table(["a", "b"], [[ALL, tables.state_cell(ALL)]], title=ALL)
    assert not steering(out.getvalue())
    assert out.getvalue().count("[red]x[/red]") == 3


def test_a_new_sort_of_hidden_character_is_marked_too() -> None:
    assert visible("a\u2067b\u061cc\u200d👩\u200d💻\ufe0f") == "a<U+2067>b<U+061C>c\u200d👩\u200d💻\ufe0f"
    assert json.loads(visible_json(json.dumps("\U000e0041\x7f", ensure_ascii=False))) == "\U000e0041\x7f"


def test_whatever_is_named_like_a_secret_is_hidden() -> None:
    options = {
        "api_key": "hunter2", "auth_token": "hunter2", "keys": ["hunter2"], "list": [{"token": "hunter2"}, "nats://a:hunter2@h"],
        "credentials": {"a": "hunter2"}, "words": ["kept"], "max_tokens": 5,
    }  # fmt: skip
    shown = hide_secrets({"filters": {"own": {"options": options}}, "nats": {"url": "nats//u:hunter2@h"}})
    assert "hunter2" not in str(shown)
    assert shown["filters"]["own"]["options"]["words"] == ["kept"]
    assert shown["filters"]["own"]["options"]["max_tokens"] == 5
    for url in ("//u:hunter2@h", "u:hunter2@h", "nats:u:hunter2@h", "nats:/u:hunter2@h", "nats://u:hunter2/x@h"):
        assert "hunter2" not in str(hide_secrets({"url": url})), url


def test_a_pattern_that_costs_much_is_told_with_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sidecar.cli.main import main

    file = tmp_path / "sidecar.toml"
    file.write_text("[filters.words]\nkind = 'blocklist'\n[filters.words.options]\npatterns = ['[a-z]+']\n")
    monkeypatch.setattr(config_command, "DEAR_US", 0.0)
    assert main(["config", "--check", str(file)]) == 0
    assert "filters.words.options.patterns[0] takes up to" in capsys.readouterr().err
