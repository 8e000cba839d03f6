"""The policy while the process runs: the file's, over it what operators put on the bus; the last good one stays.

A change is noticed by the file's mark once a second, by SIGHUP, by a hint from the bus, and by reading the bus
again every 15 s. Nothing is applied that was not validated as a whole.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from sidecar.config.settings import Policy, merge_policy
from sidecar.errors import SidecarError, StartupError
from sidecar.ports.bus import Clock, PolicyStore
from sidecar.runtime.lifecycle import Health, Tasks, Waker

log = logging.getLogger(__name__)

LOOK_S = 1.0
READ_S = 15.0
HEALTH = "config"

Mark = tuple[int, int, int] | None


class Reloader:
    """`read_file` gives the policy of file and environment anew, `path` is the file; `apply` takes a policy over.

    `apply` may raise StartupError, and must then have changed nothing. `is_ok` is False from a failure until the
    next success: the gauge `config_reload_success`.
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
        self._is_file_due = False
        self._is_store_due = False
        self.is_ok = True

    async def start(self) -> None:
        """Take over what is on the bus, then watch."""
        await self._store.listen(self.hint)
        await self._reload(file=False, store=True)
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
        read_at = self._clock.monotonic() + READ_S
        while True:
            await self._waker.wait(LOOK_S)
            mark = mark_of(self._path)
            file = self._is_file_due or mark != self._mark
            store = self._is_store_due or self._clock.monotonic() >= read_at
            self._is_file_due = self._is_store_due = False
            self._mark = mark
            if store:
                read_at = self._clock.monotonic() + READ_S
            if file or store:
                await self._reload(file=file, store=store)

    async def _reload(self, *, file: bool, store: bool) -> None:
        try:
            if store:
                document = await self._store.load()
                if document == self._document and not file and self.is_ok:
                    return
                self._document = document
            if file:
                self._from_file = self._read_file()
            policy = merge_policy(self._from_file, self._document)
            if policy != self._current:
                await self._apply(policy)
                self._current = policy
                log.info("policy applied", extra={"source": "file and bus" if self._document else "file"})
        except StartupError as e:
            self.is_ok = False
            self._health.set(HEALTH, f"the policy was not taken over, the old one holds: {e.message}")
            log.error("policy refused, the old one holds", extra={"error": e.message})
        except SidecarError as e:
            log.warning("the policy on the bus could not be read", extra={"error": e.message})
        else:
            self.is_ok = True
            self._health.set(HEALTH, None)


def mark_of(path: Path | None) -> Mark:
    """What changes when a file is written or replaced; None without a file."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
