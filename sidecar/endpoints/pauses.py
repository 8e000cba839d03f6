"""The request/reply endpoints by which operators hold jobs back and release them."""

from collections.abc import Callable
from contextlib import suppress

from sidecar.errors import BusUnavailable, Conflict, InvalidRequest, SidecarError
from sidecar.models.api import schemas_of
from sidecar.models.base import rfc3339
from sidecar.models.codec import decode, encode
from sidecar.models.pauses import ANY, MOST_PAUSES, Matching, Pause, PauseRequest, Pauses, ResumeRequest
from sidecar.ports.bus import Clock, Endpoint, Query, Reply
from sidecar.ports.cluster import ClusterBus, PauseStore

MOST_TRIES = 20
TOPIC = "pauses"

Change = Callable[[tuple[Pause, ...]], tuple[Pause, ...]]


class PauseQueries:
    """`alias_of` gives the name that a model is known by, None for one that is not known."""

    def __init__(
        self, store: PauseStore, bus: ClusterBus, *, clock: Clock, alias_of: Callable[[str], str | None]
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._alias_of = alias_of

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("admin_pause", "admin.pause", self.pause, schemas_of(PauseRequest, Pauses)),
            Endpoint("admin_resume", "admin.resume", self.resume, schemas_of(ResumeRequest, Pauses)),
        )

    async def pause(self, query: Query) -> Reply:
        """Hold what matches from now on. The same again replaces its reason."""
        asked = decode(query.payload, PauseRequest)
        _not_empty(asked)
        made = Pause(
            tenant=_named(asked.tenant),
            job_class=_named(asked.job_class),
            model=self._model(asked.model),
            reason=asked.reason,
            since=rfc3339(self._clock.now()),
        )

        def add(before: tuple[Pause, ...]) -> tuple[Pause, ...]:
            others = tuple(pause for pause in before if not pause.is_same(made))
            if len(others) >= MOST_PAUSES:
                raise InvalidRequest(f"{MOST_PAUSES} pauses hold already: end some, or pause more at once with *")
            return (*others, made)

        return await self._changed(add, dry_run=asked.dry_run)

    async def resume(self, query: Query) -> Reply:
        """End the pauses that match."""
        asked = decode(query.payload, ResumeRequest)
        _not_empty(asked)
        if asked.model not in (None, ANY):
            asked = ResumeRequest(
                tenant=asked.tenant,
                job_class=asked.job_class,
                model=self._alias_of(asked.model) or asked.model,
                dry_run=asked.dry_run,
            )
        return await self._changed(
            lambda before: tuple(pause for pause in before if not pause.is_meant(asked)), dry_run=asked.dry_run
        )

    async def _changed(self, change: Change, *, dry_run: bool) -> Reply:
        for _ in range(MOST_TRIES):
            stored = await self._store.load()
            after = change(stored.pauses)
            if not dry_run and after != stored.pauses:
                try:
                    await self._store.save(after, revision=stored.revision)
                except Conflict:
                    # Another operator in the same moment: both hold.
                    continue
                with suppress(SidecarError):
                    self._bus.publish(TOPIC, b"")
            return Reply(encode(Pauses(pauses=after, before=stored.pauses, dry_run=dry_run)))
        raise BusUnavailable("operators' pauses are written over again and again: ask again")

    def _model(self, given: str | None) -> str | None:
        if given in (None, ANY):
            return None
        alias = self._alias_of(given or "")
        if alias is None:
            raise InvalidRequest(
                f"no model {given!r} is known: `sidecar models --all` lists them",
                path="model",
                code="unknown_model",
            )
        return alias


def _named(given: str | None) -> str | None:
    return None if given == ANY else given


def _not_empty(asked: Matching) -> None:
    if asked.is_empty:
        raise InvalidRequest("give one at least of tenant, class and model, each a name or * for any")
