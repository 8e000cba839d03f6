"""Topics of the messages between replicas, and their encoding. What cannot be read is None: it is not for us."""

from typing import Any, TypeVar

import msgspec

from sidecar.models.plain import UNREADABLE
from sidecar.models.replica import (
    GrantOffer,
    GrantReply,
    Heartbeat,
    NextCallGrant,
    Ops,
    OpsReply,
    OwnershipDoubt,
    Rollcall,
    Wire,
)

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


def decode(payload: bytes, kind: type[W]) -> W | None:
    """A message of this version or one near it; None for anything else."""
    try:
        message: W = _decoders[kind].decode(payload)
    except UNREADABLE:
        return None
    return message
