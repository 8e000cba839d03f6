"""The view of the bucket, kept current: what is heard counts at once, and what was missed is read again."""

import logging

from sidecar.errors import Conflict, InvalidRequest
from sidecar.models.shown import shown
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Clock
from sidecar.ports.tools import StoredTool, ToolChange, ToolKey, ToolStore
from sidecar.runtime.lifecycle import Tasks, logged
from sidecar.tool_registry.catalogue import Amnesty, ToolCatalogue, ToolEntry
from sidecar.tool_registry.documents import entry_from

log = logging.getLogger(__name__)

# How long a version is remembered after its registration has ended: what it promised still binds.
REMEMBER_S = 30 * 86_400
CHECK_S = 1.0
REREAD_S = 60.0
MOST_MENDED = 64
AWAY_S = 5.0
AMNESTY_S = 30.0


class Follower:
    """Carries every write to the bucket into `catalogue`.

    Revisions count without gaps, so a gap in what is heard shows a loss at once, and once a second the bucket's
    last revision shows one at the end. A reconnect is nothing else than a loss.
    """

    def __init__(self, *, store: ToolStore, catalogue: ToolCatalogue, clock: Clock, subjects: Subjects) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        self._subjects = subjects
        self._tasks: Tasks | None = None
        self._mending = 0
        self._seen = 0
        self._is_whole = False
        self._heard_meanwhile: list[ToolChange] | None = None
        self._read_at = float("-inf")
        self._reached_at = clock.now()

    @property
    def is_ready(self) -> bool:
        """Whether the bucket was read once: before, what is not known may be there all the same."""
        return self._read_at > float("-inf")

    async def start(self, tasks: Tasks) -> None:
        """Listen, then read: nothing falls between. Waits while NATS is away: an empty view would refuse jobs."""
        self._tasks = tasks
        await self._store.listen(self._hear)
        while not await self._was_read():
            await self._clock.sleep(CHECK_S)
        tasks.spawn(self._watch(), name="tools")

    async def _was_read(self) -> bool:
        with logged("reading the tools"):
            await self._read()
        return self.is_ready

    def apply(self, change: ToolChange) -> None:
        """Take one write over; older ones than what is known have no effect."""
        if change.key is None or change.is_foreign:
            return
        if change.stored is None:
            self._catalogue.forget(change.key, revision=change.revision)
            return
        stored, known = change.stored, self._catalogue.get(change.key)
        if known is not None and known.document == stored.document:
            self._catalogue.renew(change.key, expires=stored.expires, revision=stored.revision)
            return
        try:
            self._catalogue.put(entry_from(stored, subjects=self._subjects))
        except (InvalidRequest, ValueError) as e:
            key = ".".join(change.key)
            log.warning(
                "the bucket of tools holds what is none", extra={"key": shown(key), "error": shown(e, 500)}
            )

    async def refresh(self, key: ToolKey) -> None:
        """Read one version, because somebody else wrote it."""
        stored = await self._store.get(key)
        if stored is not None:
            self.apply(ToolChange(stored.revision, key, stored))
        elif (entry := self._catalogue.get(key)) is not None:
            self._catalogue.forget(key, revision=entry.revision + 1)

    def _hear(self, change: ToolChange) -> None:
        if self._heard_meanwhile is not None:
            self._heard_meanwhile.append(change)
            return
        if change.revision > self._seen + 1:
            self._is_whole = False
        self._seen = max(self._seen, change.revision)
        if change.is_foreign:
            self._mend_soon(change)
        self.apply(change)

    async def _read(self) -> None:
        """Take over all that is stored; what is heard meanwhile counts after it."""
        heard = self._heard_meanwhile = list[ToolChange]()
        before = self._seen
        try:
            snapshot = await self._store.snapshot()
            if snapshot.revision < before:
                # The bucket was made anew, and counts from its beginning.
                self._catalogue.clear()
            for stored in snapshot.tools:
                self.apply(ToolChange(stored.revision, stored.key, stored))
            # What a stranger has written over is still known here, and about to be written again.
            overrun = [change.key for change in snapshot.foreign if change.key is not None]
            kept = (*(tool.key for tool in snapshot.tools), *overrun)
            self._catalogue.keep_only(kept, revision=snapshot.revision)
            for change in snapshot.foreign[:MOST_MENDED]:
                await self._mend(change)
            self._seen, self._is_whole = snapshot.revision, len(snapshot.foreign) <= MOST_MENDED
            if not self.is_ready:
                self._reached_at = self._clock.now()
            self._read_at = self._clock.monotonic()
        finally:
            self._heard_meanwhile = None
            for change in heard:
                if change.revision > self._seen:
                    self._hear(change)

    def _mend_soon(self, change: ToolChange) -> None:
        if self._tasks is None or self._mending >= MOST_MENDED:
            # Strangers set the pace: what is too much at once is found by the next look at the bucket.
            self._is_whole = False
            return
        self._mending += 1
        self._tasks.spawn(self._mend(change), name="mend a tool").add_done_callback(self._mended)

    def _mended(self, _: object) -> None:
        self._mending -= 1

    async def _mend(self, change: ToolChange) -> None:
        """A stranger wrote over a version: write it again as it is known, or take the stranger's bytes away.

        Every replica tries; the first one has done it.
        """
        with logged("mending a tool"):
            entry = self._catalogue.get(change.key) if change.key is not None else None
            if entry is None:
                await self._store.discard(change.revision)
            else:
                await self._write_again(entry)

    async def _write_again(self, entry: ToolEntry) -> None:
        try:
            written = await self._put(entry, entry.revision)
        except Conflict:
            stored = await self._store.get(entry.key)
            if stored is not None:
                self.apply(ToolChange(stored.revision, entry.key, stored))
                return
            # A replica that does not know the version took the stranger's bytes away: the place is free.
            written = await self._put(entry, 0)
        self.apply(ToolChange(written, entry.key, StoredTool(entry.key, entry.document, entry.expires, written)))

    async def _put(self, entry: ToolEntry, revision: int) -> int:
        keep_s = max(1, int(entry.expires - self._clock.now())) + REMEMBER_S
        return await self._store.put(
            entry.key, entry.document, expires=entry.expires, revision=revision, keep_s=keep_s
        )

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(CHECK_S)
            with logged("looking for changes of tools"):
                if await self._is_behind():
                    await self._read()
                self._reached()

    def _reached(self) -> None:
        """The bus was asked and has answered. After a time without, providers get a moment to renew."""
        now = self._clock.now()
        if now - self._reached_at > AWAY_S:
            self._catalogue.forgive(Amnesty(after=self._reached_at, until=now + AMNESTY_S, revision=self._seen))
        self._reached_at = now

    async def _is_behind(self) -> bool:
        """Read anew now and then all the same: at R3 a snapshot comes from a follower, which may lag."""
        if not self._is_whole or self._clock.monotonic() - self._read_at >= REREAD_S:
            return True
        before = self._seen
        last = await self._store.last_revision()
        return last > self._seen or last < before
