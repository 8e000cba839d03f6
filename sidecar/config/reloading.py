"""The policy while the process runs: the file's, over it what operators put on the bus; the last good one stays.

A change is noticed by the file's mark once a second, by SIGHUP, by a hint from the bus, and by reading the bus
again every 15 s. Nothing is applied that was not validated as a whole.

What was accepted last is kept on the bus beside what operators say. A process that starts with a policy that it
refuses, or that strangers have written over, goes by that; where nothing is kept it waits: to serve without the
policy would drop tenants' filters and limits.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from sidecar.config.settings import Policy, merge_policy
from sidecar.errors import Conflict, SidecarError, StartupError
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import PolicyStore, StoredPolicy
from sidecar.runtime.lifecycle import Health, Tasks, Waker, logged

log = logging.getLogger(__name__)

LOOK_S = 1.0
READ_S = 15.0
HEALTH = "config"
PLACE = "LLM_CONFIG, key policy"

Mark = tuple[int, int, int] | None


class Reloader:
    """`read_file` gives the policy of file and environment anew, `path` is the file; `apply` takes a policy over.

    `apply` may raise StartupError, and must then have changed nothing. `is_ok` is False from a failure until the
    next success: the gauge `config_reload_success`. `is_decided` once some policy was taken over.
    """

    def __init__(
        self,
        *,
        store: PolicyStore,
        read_file: Callable[[], Policy],
        path: Path | None,
        current: Policy,
        apply: Callable[[Policy], Awaitable[None]],
        health: Health,
        clock: Clock,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._read_file = read_file
        self._path = path
        self._current = current
        self._apply = apply
        self._health = health
        self._clock = clock
        self._tasks = Tasks(on_crash)
        self._waker = Waker(clock)
        self._mark = mark_of(path)
        self._from_file = current
        self._document: bytes | None = None
        self._kept: StoredPolicy | None = None
        self._is_file_due = False
        self._is_store_due = False
        self._read_at = float("-inf")
        self.is_ok = True
        self.is_decided = False

    async def start(self) -> None:
        """Take over what is on the bus, then watch. Waits for a policy that can be taken over."""
        await self._store.listen(self.hint)
        self._read_at = self._clock.monotonic() + READ_S
        await self._reload(file=False, store=True)
        while not self.is_decided:
            await self._look()
        self._tasks.spawn(self._watch(), name="policy-watch")

    async def stop(self) -> None:
        await self._tasks.cancel()

    def hint(self) -> None:
        """The document on the bus may have changed."""
        self._is_store_due = True
        self._waker.wake()

    def reload(self) -> None:
        """Read everything again, whether it looks changed or not (SIGHUP)."""
        self._is_file_due = self._is_store_due = True
        self._waker.wake()

    async def _watch(self) -> None:
        while True:
            await self._look()

    async def _look(self) -> None:
        await self._waker.wait(LOOK_S)
        mark = mark_of(self._path)
        file = self._is_file_due or mark != self._mark
        store = self._is_store_due or self._clock.monotonic() >= self._read_at
        self._is_file_due = self._is_store_due = False
        self._mark = mark
        if store:
            self._read_at = self._clock.monotonic() + READ_S
        if file or store:
            await self._reload(file=file, store=store)

    async def _reload(self, *, file: bool, store: bool) -> None:
        try:
            if store:
                document = await self._said()
                if document == self._document and not file and self.is_ok and self.is_decided:
                    return
                self._document = document
            if file:
                self._from_file = self._read_file()
            await self._take_over(self._document)
        except StartupError as e:
            await self._refuse(e)
        except SidecarError as e:
            log.warning("the policy on the bus could not be read", extra={"error": e.message})
            if not self.is_decided:
                self.is_ok = False
                self._health.set(HEALTH, f"waits for the policy on the bus ({PLACE}): {e.message}")
                self._read_at = self._clock.monotonic()
        else:
            self.is_ok = True
            self._health.set(HEALTH, None)
            with logged("keeping the accepted policy"):
                await self._keep()

    async def _said(self) -> bytes | None:
        """What operators say; where nothing of theirs is left, what was accepted last, which is put back.

        Raises StartupError where there was something and nobody knows what.
        """
        stored = await self._store.load()
        if stored.word == "said":
            return stored.document
        good = await self._good()
        if good is None:
            if stored.word == "overrun":
                raise StartupError(
                    f"strangers have written over all its revisions ({PLACE}), and none that was accepted is kept:"
                    f" put it there again, or delete the key if there is to be none"
                )
            return None
        if good.document is not None or stored.word == "overrun":
            log.warning("the policy on the bus was written over: the accepted one is put back")
            with suppress(Conflict):
                await self._store.put_back(good.document)
        return good.document

    async def _take_over(self, document: bytes | None) -> None:
        policy = merge_policy(self._from_file, document)
        if policy != self._current:
            await self._apply(policy)
            self._current = policy
            log.info("policy applied", extra={"source": "file and bus" if document else "file"})
        self.is_decided = True

    async def _refuse(self, error: StartupError) -> None:
        self.is_ok = False
        reason = f"the policy was not taken over, the old one holds: {error.message}"
        if not self.is_decided:
            reason = await self._fall_back(error)
        if self._health.reasons.get(HEALTH) != reason:
            log.error("policy refused", extra={"reason": reason})
        self._health.set(HEALTH, reason)

    async def _fall_back(self, error: StartupError) -> str:
        """At the start: go by the policy that was accepted last. Returns what to tell."""
        refused = f"the policy on the bus ({PLACE}) is refused: {error.message}"
        try:
            good = await self._good()
            if good is None:
                return f"waits for a policy: {refused}; none that was accepted is kept"
            await self._take_over(good.document)
        except StartupError as e:
            return f"waits for a policy: {refused}; the one accepted last is refused too: {e.message}"
        except SidecarError as e:
            return f"waits for a policy: {refused}; the one accepted last could not be read: {e.message}"
        return f"{refused}; the one accepted last holds"

    async def _good(self) -> StoredPolicy | None:
        found = await self._store.load_good()
        if found is None and self._kept is not None:
            # No operator removes it: purged with the bucket, say. What this process knows is as good.
            await self._store.keep_good(self._kept.document)
            return self._kept
        self._kept = found
        return found

    async def _keep(self) -> None:
        kept = await self._good() if self._kept is None else self._kept
        if kept is None or kept.document != self._document:
            await self._store.keep_good(self._document)
            self._kept = StoredPolicy(self._document, "said")


def mark_of(path: Path | None) -> Mark:
    """What changes when a file is written or replaced; None without a file."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
