"""Logging: one JSON object a line on stderr (or plain text), with ids and numbers, never content.

What the product logs is free of content by its choice of words. What it does not choose is cut down:
of an exception that is not ours only its type and its place are written, for its message may quote what it was
given (botocore's do), and of other libraries' messages only the first line. Whatever is written is on one line and
bounded, for strangers choose some of the words (`shown` quotes them where they are known to).
"""

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Literal

import msgspec

from sidecar.errors import SidecarError
from sidecar.models.base import rfc3339
from sidecar.models.shown import on_one_line, visible, visible_json

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Their messages speak of types, names and files, not of values.
_PLAIN = (
    SidecarError,
    OSError,
    AttributeError,
    ImportError,
    IndexError,
    MemoryError,
    NameError,
    RecursionError,
    TypeError,
    ZeroDivisionError,
)
_OWN = "sidecar"
LONGEST_FOREIGN = 300
LONGEST_OWN = 2_000
LONGEST_FACT = 1_000
MOST_FACTS = 100


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {name: _bounded(value) for name, value in record.__dict__.items() if name not in _STANDARD}


def _bounded(value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {_bounded(name): _bounded(inner) for name, inner in islice(value.items(), MOST_FACTS)}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(inner) for inner in islice(value, MOST_FACTS)]
    return on_one_line(str(value), LONGEST_FACT)


def message_of(record: logging.LogRecord) -> str:
    """The product's own message; of another library's the first line."""
    text = record.getMessage()
    if record.name.partition(".")[0] == _OWN:
        return on_one_line(text, LONGEST_OWN)
    return on_one_line(text.partition("\n")[0][:LONGEST_FOREIGN], LONGEST_FOREIGN)


def exception_text(error: BaseException) -> str:
    """Types and places, from the first cause on; messages only where they hold no values."""
    return "\n".join(line for found in reversed(list(_chain(error))) for line in _lines(found))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _lines(error: BaseException) -> Iterator[str]:
    yield "Traceback:"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    name = type(error).__qualname__
    yield f"{name}: {on_one_line(str(error), LONGEST_OWN)}" if isinstance(error, _PLAIN) else name
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from exception_text(inner).splitlines()


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            **facts_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = exception_text(record.exc_info[1])
        return visible_json(msgspec.json.encode(line, enc_hook=str).decode())


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{name}={visible(str(value))}" for name, value in facts_of(record).items())
        line = f"{rfc3339(record.created)} {record.levelname:7} {message_of(record)}"
        if facts:
            line += f"  {facts}"
        if record.exc_info and record.exc_info[1] is not None:
            line += f"\n{exception_text(record.exc_info[1])}"
        return line


def set_up(*, level: str, form: Literal["json", "text"]) -> None:
    """Send the product's logs to stderr; foreign libraries only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level.upper())
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


def _uncaught(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    logging.getLogger(_OWN).critical("the process ends by an error", exc_info=(kind, error, place))
