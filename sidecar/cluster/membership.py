"""Who is there: what heartbeats tell, and who has fallen silent. Pure: `now` is monotonic seconds."""

from collections.abc import Iterator
from typing import NamedTuple

from sidecar.models.replica import OLDEST_PROTOCOL, PROTOCOL, Heartbeat, HeldJob

BEAT_S = 1.0
SILENT_S = 5.0
# What others get to come back after an outage of the bus: clients try again every two seconds, and all at once.
RETURN_S = 10.0
# A sweep that comes later than this was held up itself, and may not have read what was sent meanwhile.
LATE_SWEEP_S = 2.0
# How many jobs fit a heartbeat: some 250 bytes each, far below a message's usual megabyte.
JOBS_A_BEAT = 2000


class Member:
    """One process, as it was heard last. `n` is its last complete heartbeat, whose jobs are `jobs`.

    Its silence counts from `silent_from`, which is later than `heard_at` where this process could not have heard.
    """

    __slots__ = ("beat", "heard_at", "jobs", "n", "parts", "silent_from")

    def __init__(self, beat: Heartbeat, now: float) -> None:
        self.beat = beat
        self.heard_at = self.silent_from = now
        self.n = 0
        self.jobs: dict[int, HeldJob] = {}
        self.parts: dict[int, tuple[HeldJob, ...]] = {}

    @property
    def is_compatible(self) -> bool:
        """Whether either side knows the other's messages."""
        return self.beat.protocol >= OLDEST_PROTOCOL and self.beat.oldest <= PROTOCOL

    @property
    def takes_jobs(self) -> bool:
        return self.is_compatible and not (self.beat.is_draining or self.beat.is_leaving)


class Heard(NamedTuple):
    """What a heartbeat changed: `member` has a complete list of jobs; `is_changed`: slots or readiness; `tells`:
    something else is in the way of its calls than before.
    """

    member: Member | None
    is_new: bool
    is_changed: bool
    tells: bool = False


class Members:
    """Everybody who was heard lately, this process included."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._gone: dict[str, int] = {}
        self._swept_at: float | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def get(self, member: str) -> Member | None:
        return self._members.get(member)

    def items(self) -> tuple[tuple[str, Member], ...]:
        return tuple(self._members.items())

    def has_name(self, name: str) -> bool:
        """Whether a live process goes by this name."""
        return any(member.beat.name == name for member in self._members.values())

    def leader(self, now: float) -> Member | None:
        """Who said last that it schedules, with the highest term, within the last beats."""
        leaders = [m for m in self._members.values() if m.beat.term and now - m.heard_at < 2.5 * BEAT_S]
        return max(leaders, key=lambda member: member.beat.term, default=None)

    def clock_offsets(self, now: float) -> list[float | None]:
        """How far the clocks of those are off that were heard within the last beats and could schedule."""
        heard = (m for m in self._members.values() if m.takes_jobs and now - m.heard_at < 2.5 * BEAT_S)
        return [member.beat.clock_offset_s for member in heard]

    def hear(self, beat: Heartbeat, now: float) -> Heard:
        """Take a heartbeat in. One older than what was heard, or of a process that left, is passed over."""
        member = self._members.get(beat.member)
        is_new = member is None
        if member is None:
            if beat.n <= self._gone.get(beat.member, 0):
                return Heard(None, is_new=False, is_changed=False)
            member = self._members[beat.member] = Member(beat, now)
        elif beat.n <= member.n or beat.n < member.beat.n:
            return Heard(None, is_new=False, is_changed=False)
        before = member.beat
        if beat.n != before.n:
            member.parts.clear()
        member.beat, member.heard_at, member.silent_from = beat, now, now
        member.parts[beat.part] = beat.jobs
        is_changed = is_new or (before.slots, before.is_draining) != (beat.slots, beat.is_draining)
        tells = before.troubles != beat.troubles
        if len(member.parts) < beat.parts:
            return Heard(None, is_new, is_changed, tells)
        member.n = beat.n
        member.jobs = {held.seq: held for part in member.parts.values() for held in part}
        member.parts.clear()
        return Heard(member, is_new, is_changed, tells)

    def remove(self, member: str) -> Member | None:
        """A process has left; its late heartbeats do not bring it back."""
        found = self._members.pop(member, None)
        if found is not None:
            self._gone[member] = found.beat.n
            if len(self._gone) > 1000:
                del self._gone[next(iter(self._gone))]
        return found

    def excuse(self, now: float) -> None:
        """This process was cut off: everybody must be heard anew, and has `RETURN_S` for it."""
        for member in self._members.values():
            member.silent_from = now + RETURN_S - SILENT_S

    def sweep(self, now: float, *, keep: str) -> list[str]:
        """Take out whoever has been silent for too long, but `keep`. Call once a beat.

        When this process itself was held up, silence proves nothing: everybody gets that time on top.
        """
        held_up_s = now - self._swept_at if self._swept_at is not None else 0.0
        self._swept_at = now
        if held_up_s > LATE_SWEEP_S:
            for member in self._members.values():
                member.silent_from = max(member.silent_from, min(now, member.silent_from + held_up_s))
            return []
        silent = [m for m, member in self._members.items() if now - member.silent_from >= SILENT_S and m != keep]
        for name in silent:
            # Silent is not gone: a partition heals, and the same process is heard again.
            del self._members[name]
        return silent
