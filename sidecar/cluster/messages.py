"""Topics of the messages between replicas, and their encoding. What cannot be read is None: it is not for us."""

from typing import Any, TypeVar

import msgspec

from sidecar.conversation.reservation import Said
from sidecar.errors import JobHeld, SidecarError
from sidecar.models.plain import UNREADABLE
from sidecar.models.replica import (
    GrantOffer,
    GrantReply,
    Heartbeat,
    NextCallGrant,
    Ops,
    OpsReply,
    OwnershipDoubt,
    QueueAnswer,
    QueueQuestion,
    Rollcall,
    Wire,
)
from sidecar.models.result import ErrorInfo
from sidecar.runtime.redaction import told
from sidecar.scheduler.tickets import WaitReason

HEARTBEAT = "heartbeat"
ROLLCALL = "rollcall"
RELEASED = "released"
PRESENT = "present"

W = TypeVar("W", bound=Wire)

_KINDS: tuple[type[Wire], ...] = (
    OwnershipDoubt,
    Heartbeat,
    GrantOffer,
    GrantReply,
    Ops,
    OpsReply,
    Rollcall,
    NextCallGrant,
    QueueQuestion,
    QueueAnswer,
)
_decoders: dict[type[Wire], msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(kind) for kind in _KINDS}
encode = msgspec.json.Encoder().encode


def offers_to(member: str) -> str:
    return f"offer.{member}"


def turns_to(member: str) -> str:
    return f"turn.{member}"


def ops_to(member: str) -> str:
    return f"ops.{member}"


def disowned_to(member: str) -> str:
    return f"disowned.{member}"


def questions_to(member: str) -> str:
    return f"queue.{member}"


def next_call(seq: int, number: int, said: Said) -> NextCallGrant:
    """What a job elsewhere is told about the call that it waits for."""
    if isinstance(said, SidecarError):
        info = ErrorInfo(code=said.code, message=told(said), details=said.details)
        return NextCallGrant(seq=seq, number=number, error=info)
    if isinstance(said, WaitReason):
        # What is on hold is told by an error; a version that knows of none is told nothing but that it waits.
        # Pauses hold jobs that have not begun, never a later call of one that has.
        reason = "quota" if said.reason == "model" or said.reason == "pause" else said.reason
        return NextCallGrant(seq=seq, number=number, waiting_for=reason, estimate_s=said.estimate_s)
    return NextCallGrant(seq=seq, number=number, pool=said)


def said_of(turn: NextCallGrant) -> Said | None:
    """What `next_call` made the message of; None where a newer version says something else."""
    if turn.pool is not None:
        return turn.pool
    if turn.error is not None:
        held, since = turn.error.details.get("held"), turn.error.details.get("since")
        if isinstance(held, str) and isinstance(since, int | float):
            return JobHeld(held, since=since)
        return SidecarError(turn.error.message, code=turn.error.code, details=turn.error.details)
    return WaitReason(turn.waiting_for, turn.estimate_s) if turn.waiting_for is not None else None


def decode(payload: bytes, kind: type[W]) -> W | None:
    """A message of this version or one near it; None for anything else."""
    try:
        message: W = _decoders[kind].decode(payload)
    except UNREADABLE:
        return None
    return message
