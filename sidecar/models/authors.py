"""Who wrote what is stored: a replica of any version, an operator, or a stranger. Pure.

A publisher names the subject to which JetStream sends its acknowledgement, and the server does not ask whether the
publisher may publish there. So where tenants are users of one account, an acknowledgement's JSON may lie under any
subject of the account: always without headers, never with other words than the server's.
"""

from collections.abc import Mapping

import msgspec

from sidecar.models.plain import UNREADABLE
from sidecar.models.subjects import HEADER_TTL, is_name

_LONGEST = 4096
# Leases live for seconds; one that says more is nobody's to wait for.
_LONGEST_LEASE_S = 600


class _Refusal(msgspec.Struct):
    err_code: int


class _Acknowledgement(msgspec.Struct):
    """The server's answer to a publish: where the message was stored, or why it was not."""

    stream: str | msgspec.UnsetType = msgspec.UNSET
    seq: int | msgspec.UnsetType = msgspec.UNSET
    error: _Refusal | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Acknowledgement).decode


def is_acknowledgement(payload: bytes) -> bool:
    """Whether these are JetStream's words about a publish."""
    if len(payload) > _LONGEST or not (b'"seq"' in payload or b'"err_code"' in payload):
        return False
    try:
        found = _decode(payload)
    except UNREADABLE:
        return False
    is_of_store = found.stream is not msgspec.UNSET and found.seq is not msgspec.UNSET
    return is_of_store or found.error is not msgspec.UNSET


def is_aimed(payload: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a message is an acknowledgement that somebody aimed here; its publisher's `headers` are given."""
    return not headers and is_acknowledgement(payload)


def is_lease(payload: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a replica wrote this: its name, for a time that the server keeps.

    What lives for ever was not written by a holder: nobody would ever see it end.
    """
    ttl = headers.get(HEADER_TTL, "")
    if not (ttl.isascii() and ttl.isdecimal() and 0 < int(ttl[:9]) <= _LONGEST_LEASE_S):
        return False
    return bool(payload.isascii() and is_name(payload.decode()))
