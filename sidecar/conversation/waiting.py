"""How a job waits for room: for which pools, and what it says meanwhile."""

from collections.abc import Sequence

from sidecar.conversation.reservation import Room, Say
from sidecar.conversation.run import JobRun
from sidecar.coordinator.fallback import Opening
from sidecar.models.event import Status
from sidecar.scheduler.tickets import WaitReason


def rooms_of(openings: Sequence[Opening], *, now: float) -> list[Room]:
    """The pools of candidates, in their order. `now`: seconds since 1970."""
    return [Room(opening.candidate.route.pool, max(0.0, opening.at - now)) for opening in openings]


def saying(run: JobRun) -> Say:
    """Says in the job's document and by an event what it waits for."""

    async def say(waits: WaitReason) -> None:
        estimate_ms = None if waits.estimate_s is None else round(waits.estimate_s * 1000)
        await run.job.wait_for(
            Status(
                state="waiting", waiting_for=waits.reason, reason=REASONS[waits.reason], estimate_ms=estimate_ms
            )
        )

    return say


REASONS = {
    "quota": "no candidate has quota left at the moment",
    "slot": "all slots are in use",
    "tenant": "the tenant is at a cap of its own",
    "model": "no model that the job may use can be called",
}
