"""What a log line shows of errors that nobody chose the words of."""

import json
import logging
import subprocess
import sys

import pytest

from sidecar.errors import SidecarError
from sidecar.models.shown import LONGEST_SHOWN, shown
from sidecar.telemetry.logs import LONGEST_FOREIGN, JsonFormatter, TextFormatter, exception_text

CANARY = "canary-content"


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    with pytest.raises(type(error)):
        raise error from cause
    return error


def record(message: str, error: Exception | None = None, *, name: str = "sidecar.x") -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, (), info)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(CANARY),
        KeyError(CANARY),
        RuntimeError(CANARY),
        UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
        ExceptionGroup(CANARY, [ValueError(CANARY), KeyError(CANARY)]),
    ],
)
@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_of_a_foreign_error_only_type_and_place_are_shown(error: Exception, formatter: logging.Formatter) -> None:
    line = formatter.format(record("it failed", raised(error)))
    assert CANARY not in line
    assert type(error).__name__ in line
    assert "test_logs.py:" in line


def test_the_products_own_errors_keep_their_words() -> None:
    error = raised(SidecarError("set admin.port to a free port"), raised(ValueError(CANARY)))
    text = exception_text(error)
    assert "SidecarError: set admin.port to a free port" in text
    assert text.index("ValueError") < text.index("SidecarError")
    assert CANARY not in text


def test_errors_of_the_system_say_which() -> None:
    assert "No space left" in exception_text(raised(OSError(28, "No space left on device")))


def test_an_error_that_is_its_own_context_is_told_once() -> None:
    first, second = ValueError("a"), KeyError("b")
    first.__context__, second.__context__ = second, first
    assert exception_text(first).count("KeyError") == 1


def test_of_other_libraries_only_the_first_line_is_shown() -> None:
    text = f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{CANARY}')>"
    line = json.loads(JsonFormatter().format(record(text, name="asyncio")))
    assert line["message"] == "Task exception was never retrieved"
    long = json.loads(JsonFormatter().format(record("x" * 5000, name="botocore.auth")))
    assert len(long["message"]) == LONGEST_FOREIGN


def test_facts_are_fields_of_the_line() -> None:
    given = record("a job was refused")
    given.job = "job1"
    line = json.loads(JsonFormatter().format(given))
    assert (line["message"], line["job"], line["level"]) == ("a job was refused", "job1", "error")


def test_a_process_that_ends_by_an_error_does_not_quote_it() -> None:
    code = (
        f"from sidecar.telemetry import logs; logs.set_up(level='info', form='json'); raise ValueError({CANARY!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert CANARY not in done.stderr
    assert "ValueError" in json.loads(done.stderr)["exception"]


HOSTILE = "a\x0bb\r\n2026-01-01T00:00:00.000Z ERROR forged\x1b[2J\u202e" + "x" * 5_000


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize("where", ["message", "fact", "list", "table", "error"])
def test_strangers_words_stay_on_their_line_and_are_bounded(formatter: logging.Formatter, where: str) -> None:
    made = record(HOSTILE if where == "message" else "it failed")
    if where in ("fact", "list", "table"):
        made.given = {"fact": HOSTILE, "list": (HOSTILE,), "table": {HOSTILE: HOSTILE}}[where]
    if where == "error":
        error = raised(SidecarError(HOSTILE))
        made.exc_info = (type(error), error, error.__traceback__)
    line = formatter.format(made)
    assert not any(line.count(bad) for bad in ("\x0b", "\r", "\x1b", "\u202e"))
    assert "\n2026" not in line
    assert len(line) < 8_000


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("_INBOX.abc", "_INBOX.abc"),
        ("a\x0bb\n", r"a\x0bb\n"),
        ("it's \u202e", r"it's \u202e"),
        ("x" * 200, "x" * LONGEST_SHOWN + "… (200 characters)"),
        (b"\x00".decode(), r"\x00"),
    ],
)
def test_what_strangers_chose_is_quoted_in_plain_ascii(text: str, seen: str) -> None:
    assert shown(text) == seen
