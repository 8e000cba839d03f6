"""Reading past what strangers wrote, in memory: twin of `adapters.nats.genuine`."""

from collections.abc import Callable

from sidecar.adapters.memory.bus import MemoryBus
from sidecar.adapters.memory.stream import Entry, MemoryStream
from sidecar.models.authors import is_aimed


def is_no_acknowledgement(entry: Entry) -> bool:
    return not is_aimed(entry.payload, entry.headers)


def genuine(
    bus: MemoryBus,
    stream: MemoryStream,
    subject: str,
    is_genuine: Callable[[Entry], bool] = is_no_acknowledgement,
) -> Entry | None:
    """The last genuine message of a subject; what lies over it is counted and taken away."""
    while (entry := stream.last(subject)) is not None and not is_genuine(entry):
        bus.foreign_writes[subject.split(".")[1]] += 1
        stream.delete(entry.seq)
    return entry
