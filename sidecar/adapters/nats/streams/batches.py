"""Releases of nats-server that batches stop. Pure, and needs nothing of the settings."""

import re
from functools import lru_cache

STOPS_ON_BATCHES = (
    "batches that are read while others write stop its JetStream; none are asked for, which is slower"
)


@lru_cache(maxsize=16)
def stops_on_batches(version: str) -> bool:
    """Whether a server stops serving JetStream for good when a batch is read while others write to the stream.

    The end of a batch takes the stream's lock for reading a second time, which waits for a writer that waits for
    the first. 2.12.2 has it mended (tried with all three).
    """
    return re.match(r"v?2\.12\.[01]\b", version) is not None
