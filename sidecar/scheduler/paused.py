"""Jobs that operators hold: put aside of the windows, so that they take no room there, and others pass. Pure."""

from collections.abc import Callable, Iterator, Sequence

from sidecar.models.pauses import Pause
from sidecar.ports.bus import Lane
from sidecar.scheduler.tickets import Ticket

# Jobs put aside, of all lanes together: beyond them nothing more is read of lanes that have some.
MOST_ASIDE = 65_536

ModelOf = Callable[[str], str | None]
"""The alias of the model behind a quota pool."""


class Paused:
    """`rules` are the pauses that hold, `aside` the jobs put aside by lane, `count` how many they are."""

    def __init__(self, model_of: ModelOf) -> None:
        self.rules: tuple[Pause, ...] = ()
        self.aside: dict[Lane, dict[int, Ticket]] = {}
        self.count = 0
        self._model_of = model_of

    def rule_for(self, ticket: Ticket) -> Pause | None:
        """What holds a job; None where nothing does."""
        for rule in self.rules:
            if rule.holds_lane(*ticket.lane) and (rule.model is None or self._is_first_choice(rule.model, ticket)):
                return rule
        return None

    def _is_first_choice(self, model: str, ticket: Ticket) -> bool:
        pool = ticket.pools[0]
        return model in (self._model_of(pool), pool.rpartition("@")[0])

    def holds_all_of(self, lane: Lane) -> bool:
        """Whether every job of a lane is held, so that none behind can pass."""
        return any(rule.model is None and rule.holds_lane(*lane) for rule in self.rules)

    def take(self, ticket: Ticket) -> bool:
        """Put a job aside that is held. False for any other."""
        if self.rule_for(ticket) is None:
            return False
        self.aside.setdefault(ticket.lane, {})[ticket.seq] = ticket
        self.count += 1
        return True

    def remove(self, lane: Lane, seq: int) -> bool:
        """Take a job out. False when it is not here."""
        held = self.aside.get(lane)
        if held is None or held.pop(seq, None) is None:
            return False
        self.count -= 1
        if not held:
            del self.aside[lane]
        return True

    def of(self, lane: Lane) -> int:
        """How many of a lane's jobs are aside."""
        return len(self.aside.get(lane, ()))

    def may_read(self, lane: Lane, *, size: int) -> bool:
        """Whether more of a lane's jobs are worth reading: as many as a window holds where all are held, else any
        number, since others may pass them.
        """
        aside = self.of(lane)
        if not aside:
            return True
        return aside < size if self.holds_all_of(lane) else self.count < MOST_ASIDE

    def tickets(self) -> Iterator[Ticket]:
        for held in self.aside.values():
            yield from held.values()

    def set_rules(self, rules: Sequence[Pause]) -> list[Ticket]:
        """Take new pauses over. Returns the jobs that are held no more, oldest first, and no more kept here."""
        self.rules = tuple(rules)
        freed = sorted((t for t in self.tickets() if self.rule_for(t) is None), key=lambda ticket: ticket.seq)
        for ticket in freed:
            self.remove(ticket.lane, ticket.seq)
        return freed
