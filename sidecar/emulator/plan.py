"""What exactly goes over the wire, and when: pure, so that every broken transfer can be tested as a value.

A plan is a list of steps: send these bytes, wait, end in this way. `transmit.py` carries it out.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sidecar.emulator import frames
from sidecar.emulator.behaviour import EXCEPTION_FAULTS, Fault
from sidecar.emulator.events import StreamEvent
from sidecar.emulator.exceptions import EXCEPTIONS, Refusal

HTML_PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Sign in to continue</body></html>"
HUGE_FRAME_BYTES = 1_048_576
DRIP_PAUSE_S = 0.001

_BODY_FAULTS = {"empty": b"", "html": HTML_PAGE}


class Send(NamedTuple):
    """`tokens` are the output tokens in `data`, for pacing."""

    data: bytes
    tokens: int = 0


class Wait(NamedTuple):
    seconds: float


class End(NamedTuple):
    """`eof` ends the transfer properly, `close` leaves it unfinished (FIN), `reset` sends RST."""

    how: Literal["eof", "close", "reset"]


Step = Send | Wait | End
EOF = End("eof")


def is_before_headers(fault: Fault, *, is_stream: bool) -> bool:
    """Whether a fault strikes before the status line is sent."""
    if fault.kind in EXCEPTION_FAULTS:
        return not is_stream or fault.at in (None, "headers")
    if fault.kind in ("stall", "reset", "close"):
        return fault.at == "headers" or (fault.at is None and fault.kind == "stall" and not is_stream)
    return False


def refusal_of(fault: Fault) -> Refusal:
    """The HTTP error that an exception fault asks for."""
    return Refusal(fault.kind, fault.message, retry_after=fault.retry_after)


def find_body_fault(faults: Sequence[Fault]) -> bytes | None:
    """A body that replaces whatever there was to say, or None."""
    return next((_BODY_FAULTS[f.kind] for f in faults if f.kind in _BODY_FAULTS), None)


def plan_reply(body: bytes, faults: Sequence[Fault]) -> list[Step]:
    """Steps for a plain reply. One that ends with `close` or `reset` announces all of `body`, yet sends half."""
    middle = len(body) // 2
    for fault in faults:
        match fault.kind:
            case "cut":
                return [Send(body[:middle]), EOF]
            case "close":
                return [Send(body[:middle]), End("close")]
            case "reset":
                return [Send(body[:middle]), End("reset")]
            case "stall":
                return [Send(body[:middle]), Wait(fault.s), Send(body[middle:]), EOF]
            case "drip":
                return _drip([Send(body), EOF], fault)
    return [Send(body), EOF]


def plan_stream(events: Sequence[StreamEvent], faults: Sequence[Fault]) -> list[Step]:
    """Steps for a stream of `events`, messageStart to metadata, with the faults worked in."""
    if not faults:
        return [*(Send(event.encode(), event.tokens) for event in events), EOF]
    events = _leave_out(events, faults)
    placed: dict[int, list[Fault]] = {}
    for fault in faults:
        placed.setdefault(_position(fault, events), []).append(fault)
    steps: list[Step] = []
    for index in range(len(events) + 1):
        event = events[index] if index < len(events) else None
        frame = event.encode() if event else b""
        for fault in placed.get(index, ()):
            if fault.kind == "bad_crc" and frame:
                frame = frames.corrupt(frame)
                continue
            extra = _strike(fault, frame, events)
            steps.extend(extra)
            if extra and isinstance(extra[-1], End):
                return _with_drip(steps, faults)
        if event:
            steps.append(Send(frame, event.tokens))
    steps.append(EOF)
    return _with_drip(steps, faults)


def find_whole_body(steps: Sequence[Step]) -> bytes | None:
    """The body of a plan that sends one thing and ends properly, else None."""
    match steps:
        case [Send(data), End("eof")]:
            return data
    return None


def merge_sends(steps: Iterable[Step]) -> list[Step]:
    """Neighbouring sends as one: for streams without a pace."""
    merged: list[Step] = []
    batch: list[Send] = []
    for step in steps:
        if isinstance(step, Send):
            batch.append(step)
            continue
        if batch:
            merged.append(Send(b"".join(s.data for s in batch), sum(s.tokens for s in batch)))
            batch = []
        merged.append(step)
    return merged


def _leave_out(events: Sequence[StreamEvent], faults: Sequence[Fault]) -> list[StreamEvent]:
    kinds = {fault.kind for fault in faults}
    kept = list(events)
    if "missing_stop" in kinds:
        kept = [e for e in kept if e.kind not in ("messageStop", "metadata")]
    if "missing_metadata" in kinds:
        kept = [e for e in kept if e.kind != "metadata"]
    if "missing_usage" in kinds:
        kept = [e._replace(payload={k: v for k, v in e.payload.items() if k != "usage"}) for e in kept]
    return kept


def _position(fault: Fault, events: Sequence[StreamEvent]) -> int:
    count = len(events)
    stop = next((i for i, event in enumerate(events) if event.kind == "messageStop"), count)
    match fault.at:
        case None:
            return {"huge_frame": min(2, count), "unknown_event": 1, "unknown_block": stop}.get(
                fault.kind, count // 2
            )
        case "mid":
            return count // 2
        case "stop":
            return min(stop + 1, count)
        case "end":
            return count
        case "headers":
            return 0
        case _:
            return min(int(fault.at), count)


def _strike(fault: Fault, frame: bytes, events: Sequence[StreamEvent]) -> list[Step]:
    if fault.kind in EXCEPTION_FAULTS:
        refusal = refusal_of(fault)
        frame = frames.encode_exception(EXCEPTIONS[fault.kind].frame_type, refusal.message, **refusal.members())
        return [Send(frame), EOF]
    match fault.kind:
        case "stall":
            return [Wait(fault.s)]
        case "cut":
            return [Send(frame[: len(frame) // 2]), EOF]
        case "close":
            return [End("close")]
        case "reset":
            return [End("reset")]
        case "error_frame":
            return [
                Send(frames.encode_error("InternalFailure", fault.message or "An internal error occurred")),
                EOF,
            ]
        case "unknown_event":
            return [Send(frames.encode_event("modelMoodChanged", {"mood": "cheerful"}))]
        case "unknown_block":
            return [Send(frame) for frame in _unknown_block(events)]
        case "huge_frame":
            text = "x" * (fault.size_bytes or HUGE_FRAME_BYTES)
            return [
                Send(frames.encode_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}))
            ]
    return []


def _unknown_block(events: Sequence[StreamEvent]) -> list[bytes]:
    index = 1 + max((e.payload.get("contentBlockIndex", -1) for e in events), default=-1)
    payloads: list[tuple[str, dict[str, Any]]] = [
        ("contentBlockStart", {"contentBlockIndex": index, "start": {"hologram": {"depth": 3}}}),
        ("contentBlockDelta", {"contentBlockIndex": index, "delta": {"hologram": {"voxels": "AAEC"}}}),
        ("contentBlockStop", {"contentBlockIndex": index}),
    ]
    return [frames.encode_event(kind, payload) for kind, payload in payloads]


def _with_drip(steps: list[Step], faults: Sequence[Fault]) -> list[Step]:
    drip = next((fault for fault in faults if fault.kind == "drip"), None)
    return _drip(steps, drip) if drip else steps


def _drip(steps: Iterable[Step], fault: Fault) -> list[Step]:
    size = fault.size_bytes or 1
    dripping: list[Step] = []
    for step in steps:
        if not isinstance(step, Send):
            dripping.append(step)
            continue
        for start in range(0, len(step.data), size):
            dripping += (Send(step.data[start : start + size]), Wait(DRIP_PAUSE_S))
    return dripping


def spoil_reply(reply: dict[str, Any], faults: Sequence[Fault]) -> dict[str, Any]:
    """The body of a plain reply with the faults that change its content."""
    kinds = {fault.kind for fault in faults}
    if "missing_usage" in kinds:
        reply = {key: value for key, value in reply.items() if key != "usage"}
    if "unknown_block" in kinds:
        message = reply["output"]["message"]
        content = [*message["content"], {"hologram": {"depth": 3, "voxels": "AAEC"}}]
        reply = {**reply, "output": {"message": {**message, "content": content}}}
    return reply
