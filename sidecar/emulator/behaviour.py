"""How one call is to be answered: the values that scripts decide, and how brackets are laid over one another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.emulator.exceptions import EXCEPTIONS

TOOL_KEYS = ("tool", "input", "id", "raw")
FAULT_KEYS = ("fault", "at", "s", "bytes", "retry_after", "message")
EXCEPTION_FAULTS = frozenset(EXCEPTIONS)
WIRE_FAULTS: dict[str, str] = {
    "stall": "send nothing more for `s` seconds, then go on",
    "cut": "end properly, inside a frame (of a plain answer: inside the JSON text)",
    "close": "close the connection without the end of the transfer",
    "reset": "reset the connection (RST)",
    "missing_stop": "leave out messageStop and metadata",
    "missing_metadata": "leave out metadata",
    "missing_usage": "leave out usage",
    "bad_crc": "a frame with a wrong checksum",
    "empty": "status 200 with an empty body",
    "html": "status 200 with a page of HTML",
    "unknown_event": "an event of a type that nobody knows",
    "unknown_block": "a content block of a kind that nobody knows",
    "error_frame": "a frame of message type error",
    "huge_frame": "one delta of `bytes` bytes",
    "drip": "send pieces of `bytes` bytes (1), a millisecond apart",
    "duplicate_tool_ids": "all tool calls carry the same id",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A scripted tool call. `raw` replaces the JSON text of the arguments in a stream."""

    name: str
    arguments: Any = field(default_factory=dict)
    id: str | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A scripted failure: see the module's table."""

    kind: str
    at: str | None = None
    s: float = 3600.0
    size_bytes: int | None = None
    retry_after: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one call is answered; the defaults are an immediate, plain, deterministic answer."""

    text: str | None = None
    echo: bool = False
    tokens: int | None = None
    reasoning: str | int | None = None
    redacted: bool = False
    tools: tuple[ToolCall, ...] = ()
    stop: str | None = None
    guardrail: str | None = None
    citations: bool = False
    cache_read: int | None = None
    cache_write: int | None = None
    latency_ms: float = 0.0
    ttft_ms: float = 0.0
    tps: float = 0.0
    chunk_tokens: int = 4
    jitter: float = 0.0
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One bracket: what it sets, and the conditions under which it does."""

    source: str
    values: Mapping[str, Any]
    conditions: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the conditions of a bracket are held against. `turn` counts from 1, `seen` from 0."""

    model: str = ""
    region: str = ""
    tenant: str = ""
    operation: str = ""
    turn: int = 1
    seen: int = 0


def is_met(step: Step, now: Circumstances) -> bool:
    """Whether the conditions of a bracket hold. `turn=0` holds in every turn."""
    wanted = step.conditions
    if not wanted:
        return True
    return (
        wanted.get("model", "") in now.model
        and wanted.get("region", now.region) == now.region
        and wanted.get("tenant", now.tenant) == now.tenant
        and wanted.get("operation", now.operation) == now.operation
        and wanted.get("turn", now.turn) in (0, now.turn)
        and wanted.get("after", 0) <= now.seen
        and now.seen < wanted.get("times", now.seen + 1)
    )


def apply_steps(base: Behaviour, steps: Iterable[Step], now: Circumstances) -> Behaviour:
    """`base` with every bracket whose conditions hold laid over it, in order."""
    for step in steps:
        if is_met(step, now):
            base = _apply(base, step.values)
    return base


def _apply(base: Behaviour, values: Mapping[str, Any]) -> Behaviour:
    plain = {k: v for k, v in values.items() if k not in TOOL_KEYS and k not in FAULT_KEYS}
    if "tool" in values:
        call = ToolCall(values["tool"], values.get("input", {}), values.get("id"), values.get("raw"))
        plain["tools"] = (*base.tools, call)
    if "fault" in values:
        plain["faults"] = (*base.faults, _make_fault(values))
    return replace(base, **plain)


def _make_fault(values: Mapping[str, Any]) -> Fault:
    at = values.get("at")
    return Fault(
        kind=values["fault"],
        at=None if at is None else str(at),
        s=values.get("s", 3600.0),
        size_bytes=values.get("bytes"),
        retry_after=values.get("retry_after"),
        message=values.get("message"),
    )
