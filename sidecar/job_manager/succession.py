"""What a silent owner leaves to the next: whether its end counts against the job, and what its last call took."""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import msgspec

from sidecar.job_manager import transitions
from sidecar.job_manager.claiming import counts_against
from sidecar.job_manager.journal import has_come_on
from sidecar.models.base import epoch
from sidecar.models.believed import event_of
from sidecar.models.event import Delta, Event, Spent, Status
from sidecar.models.job import Carried, JobState
from sidecar.models.result import Attempt, Result, Usage
from sidecar.ports.bus import Clock, JournalStore, Publisher, StoredRequest
from sidecar.runtime.retry import keep_trying


class LastCall(NamedTuple):
    """A model call that was under way when its owner fell silent; `characters` of its answer had been said."""

    attempt: int
    model_id: str
    region: str
    characters: int
    elapsed_ms: int


class CallPrice(NamedTuple):
    """What a call is taken to have cost. `cost_usd` is None where no price is known."""

    usage: Usage
    cost_usd: float | None


Appraise = Callable[[StoredRequest, LastCall], CallPrice]
RestartsSince = Callable[[float], Awaitable[int]]


class Takeover:
    """Takes jobs over from owners that fell silent. `restarts_since` counts replicas' starts since a time."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        journal: JournalStore,
        clock: Clock,
        appraise: Appraise,
        restarts_since: RestartsSince,
    ) -> None:
        self._publisher = publisher
        self._journal = journal
        self._clock = clock
        self._appraise = appraise
        self._restarts_since = restarts_since

    async def settle(self, state: JobState, stored: StoredRequest) -> JobState:
        """The document of a job as its next owner finds it, with the account of the one that was lost, if any."""
        if state.state not in ("running", "waiting"):
            return state
        events = await self.events(state)
        carried = with_told(state.carried or Carried(), events)
        call = last_call(events, attempt=state.attempt)
        if call is None:
            return transitions.bereaved(state, counts=False, carried=carried if carried.attempts else None)
        return transitions.bereaved(
            state,
            counts=await self._counts(state, stored),
            carried=with_lost(carried, call, self._appraise(stored, call)),
        )

    async def _counts(self, state: JobState, stored: StoredRequest) -> bool:
        restarts = await self._restarts(epoch(state.started) if state.started else self._clock.now())
        return counts_against(state, restarts=restarts) and not await self._came_on(state, stored)

    async def _came_on(self, state: JobState, stored: StoredRequest) -> bool:
        """Whether a job with tools got further with its lost owner: then it is no loop."""
        if b'"tools"' not in stored.payload:
            return False
        # Not skipped while the bus is away: a job that came on would count as a crash loop.
        steps = await keep_trying(
            "reading the journal of a lost owner",
            lambda: self._journal.read(state.tenant, state.job),
            clock=self._clock,
        )
        return has_come_on(steps, attempt=state.attempt)

    async def events(self, state: JobState) -> list[Event]:
        """What the job has said so far, without what strangers put beside it."""

        async def read() -> list[Event]:
            stored = self._publisher.replay(state.tenant, state.job)
            found = [event_of(event.payload, tenant=state.tenant, job=state.job) async for event in stored]
            return [event for event in found if event is not None]

        return await keep_trying("reading the events of a lost owner", read, clock=self._clock)

    async def _restarts(self, since: float) -> int:
        return await keep_trying("counting restarts", lambda: self._restarts_since(since), clock=self._clock)


def last_call(events: Iterable[Event], *, attempt: int) -> LastCall | None:
    """The call that was under way where the events of this attempt end; None when none was."""
    began: Event | None = None
    said: dict[int, int] = {}
    latest = ""
    for event in events:
        if event.attempt != attempt or event.type not in ("status", "delta"):
            continue
        latest = event.time
        if isinstance(event.data, Status):
            began = event if event.data.state == "running" else None
            said.clear()
        elif isinstance(event.data, Delta):
            # An event whose acknowledgement got lost may be stored twice, under one number.
            said[event.n] = len(event.data.text or event.data.reasoning or "")
    if began is None or not isinstance(began.data, Status):
        return None
    return LastCall(
        attempt=attempt,
        model_id=began.data.model_id or "",
        region=began.data.region or "",
        characters=sum(said.values()),
        elapsed_ms=max(0, round(1000 * (epoch(latest) - epoch(began.time)))),
    )


def with_told(carried: Carried, events: Iterable[Event]) -> Carried:
    """What is carried, and the failed calls that the owner itself told of, each with the money up to it.

    Calls between them went well (a turn's, of a job with tools): they get one entry of what they took together.
    """
    for event in events:
        told = event.data
        if not isinstance(told, Status) or told.spent is None or told.call is None:
            continue
        between = told.spent.calls - carried.calls - 1
        if between < 0:
            # An earlier owner's, or stored twice.
            continue
        went_well = _between(carried, told.call, told.spent, calls=between)
        carried = msgspec.structs.replace(
            carried,
            usage=told.spent.usage,
            usage_basis=told.spent.usage_basis,
            cost_usd=told.spent.cost_usd,
            # It is counted before it is told.
            counted_micro_usd=round((told.spent.cost_usd or 0.0) * 1_000_000),
            attempts=(*carried.attempts, *went_well, told.call),
        )
    return carried


def _between(carried: Carried, call: Attempt, spent: Spent, *, calls: int) -> list[Attempt]:
    if calls == 0:
        return []
    own = call.usage or Usage()
    usage = Usage(
        **{
            name: max(0, getattr(spent.usage, name) - getattr(carried.usage, name) - getattr(own, name))
            for name in Usage.__struct_fields__
        }
    )
    costs = (spent.cost_usd, carried.cost_usd, call.cost_usd or 0.0 if call.cost_usd is not None else None)
    cost_usd = None if None in costs else max(0.0, costs[0] - costs[1] - costs[2])  # type: ignore[operator]
    entry = Attempt(model_id=call.model_id, region=call.region, outcome="ok", may_be_billed=True)
    first = msgspec.structs.replace(entry, usage=usage, cost_usd=cost_usd, usage_basis="observed")
    free = msgspec.structs.replace(entry, usage=Usage(), cost_usd=0.0, usage_basis="observed")
    return [first, *[free] * (calls - 1)]


def with_lost(carried: Carried, call: LastCall, price: CallPrice) -> Carried:
    """What is carried, and a call whose end nobody saw: whether and how far it is billed is not known."""
    entry = Attempt(
        model_id=call.model_id,
        region=call.region,
        outcome="crashed",
        elapsed_ms=call.elapsed_ms,
        attempt=call.attempt,
        usage=price.usage,
        cost_usd=price.cost_usd,
        usage_basis="estimated",
        may_be_billed=True,
    )
    is_known = carried.cost_usd is not None and price.cost_usd is not None
    return msgspec.structs.replace(
        carried,
        usage=carried.usage + price.usage,
        usage_basis="estimated",
        cost_usd=(carried.cost_usd or 0.0) + (price.cost_usd or 0.0) if is_known else None,
        attempts=(*carried.attempts, entry),
        warnings=(
            *carried.warnings,
            f"the replica that ran attempt {call.attempt} fell silent: what its call took is estimated",
        ),
    )


def inherited(result: Result, carried: Carried | None) -> Result:
    """The result of a job that ends without running again, with what earlier owners left."""
    if carried is None:
        return result
    is_known = result.cost_usd is not None and carried.cost_usd is not None
    return msgspec.structs.replace(
        result,
        usage=carried.usage + result.usage,
        usage_basis="estimated" if carried.usage_basis == "estimated" else result.usage_basis,
        cost_usd=(carried.cost_usd or 0.0) + (result.cost_usd or 0.0) if is_known else None,
        attempts=(*carried.attempts, *result.attempts),
        warnings=(*carried.warnings, *(w for w in result.warnings if w not in carried.warnings)),
    )
