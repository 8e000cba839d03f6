"""Reading past what strangers wrote, and taking it away.

Taking away is deleting by sequence: it hits that very message, and never what somebody wrote meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from sidecar.adapters.nats.client.foreign_writes import ForeignWrites
from sidecar.adapters.nats.direct import StoredMessage, StreamReader
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.authors import is_aimed

log = logging.getLogger(__name__)

_MOST_ROUNDS = 4
_MOST_REMOVED = 1_000
_AT_ONCE = 64
_NOBODY = 503
_COMPARED = b"\r\nNats-Expected-Last-Subject-Sequence: "

IsGenuine = Callable[[StoredMessage], bool]


def is_no_acknowledgement(found: StoredMessage) -> bool:
    """What may be anybody's who is allowed to write: an operator's tool, or a replica of the first release."""
    return not is_aimed(found.payload, found.headers)


def is_by_replica(found: StoredMessage) -> bool:
    """What is written by compare-and-set; or the mark of a deletion, which anybody may leave who may write."""
    return _COMPARED in found.own_headers or found.is_tombstone


class GenuineReader:
    """Reads of one stream that pass over what `is_genuine` does not take for a document of the product.

    `bucket` is its name in the metric. In a bucket that keeps older revisions, what lay below comes to light.
    """

    def __init__(self, reader: StreamReader, *, bucket: str, writes: ForeignWrites, is_genuine: IsGenuine) -> None:
        self._reader = reader
        self._bucket = bucket
        self._writes = writes
        self._is_genuine = is_genuine
        self._tidying: set[asyncio.Task[None]] = set()

    async def last(self, subject: str) -> StoredMessage | None:
        """The last genuine message of a subject, tombstones included. What lies over it is taken away."""
        found = await self._reader.last(subject)
        for _ in range(_MOST_ROUNDS):
            if found is None or self._is_genuine(found):
                return found
            below = await self._uncover(subject, found)
            found = await self._reader.last(subject)
            if found is not None and not self._is_genuine(found) and below is not None:
                # Somebody goes on writing: what is known to be genuine need not wait for an end of it.
                return below
        return None

    def tidy(self, subject: str) -> None:
        """Take away soon what was heard to have been written under a subject. Too much at once is left."""
        if len(self._tidying) < _AT_ONCE:
            # Who reads does not wait for the tidying, and a full set is the bound on what strangers can set off.
            task = asyncio.get_running_loop().create_task(self._tidy(subject))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self, subject: str) -> None:
        try:
            await self.last(subject)
        except SidecarError as e:
            log.info("a foreign message stays for now", extra={"error": e.message})

    async def remove(self, strangers: Sequence[StoredMessage]) -> None:
        """Take messages away, as many as is reasonable at once; what stays is met again."""
        for found in strangers:
            self._writes.met(self._bucket, subject=found.subject, seq=found.seq, payload=found.payload)
        for at in range(0, min(len(strangers), _MOST_REMOVED), _AT_ONCE):
            await asyncio.gather(*(self._delete(found) for found in strangers[at : at + _AT_ONCE]))

    async def _uncover(self, subject: str, top: StoredMessage) -> StoredMessage | None:
        """Take away what lies over the last genuine message of a subject, and return that one."""
        found = await self._below(subject, top)
        found.append(top)
        at = next((i for i in range(len(found), 0, -1) if self._is_genuine(found[i - 1])), 0)
        await self.remove(found[at:])
        return found[at - 1] if at else None

    async def _below(self, subject: str, top: StoredMessage) -> list[StoredMessage]:
        try:
            return [item async for item in self._reader.scan(subject, seq=1) if item.seq < top.seq]
        except BusUnavailable as e:
            if e.details.get("status") != _NOBODY:
                raise
            # A bucket that somebody else made may have no direct get: then one is uncovered after the other.
            return []

    async def _delete(self, found: StoredMessage) -> None:
        try:
            await self._reader.delete(found.seq)
        except SidecarError as e:
            log.info("a foreign message stays for now", extra={"seq": found.seq, "error": e.message})
