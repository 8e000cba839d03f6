"""Where an event stands in its job: the same place twice is the same event."""

import logging

import msgspec

from sidecar.models.plain import UNREADABLE
from sidecar.models.shown import shown

log = logging.getLogger(__name__)


class EventPosition(msgspec.Struct, frozen=True):
    attempt: int
    n: int


_decode = msgspec.json.Decoder(EventPosition).decode


def place_of(payload: bytes, *, subject: str) -> EventPosition | None:
    """The place of a stored event; None, with a warning, for what somebody else put at `subject`."""
    try:
        return _decode(payload)
    except UNREADABLE as e:
        log.warning("%s holds what is no event: %s", shown(subject), shown(e))
        return None
