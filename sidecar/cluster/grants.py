"""Which worker gets the next job: the one with the smallest part of its slots in use. Pure."""

from collections.abc import Collection


class _Worker:
    """`takes_jobs`: as it says of itself. `is_open`: so far it has taken those that were offered."""

    __slots__ = ("held", "is_open", "slots", "takes_jobs")

    def __init__(self) -> None:
        self.slots = 0
        self.held = 0
        self.takes_jobs = False
        self.is_open = False


class Workers:
    """Everybody's slots and jobs, as the scheduler counts them. `own` is this process's member name."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._workers: dict[str, _Worker] = {}
        self._others = 0

    def update(self, member: str, *, slots: int, takes_jobs: bool) -> None:
        """What a worker said of itself. One that was shunned is asked again."""
        worker = self._workers.setdefault(member, _Worker())
        worker.slots, worker.takes_jobs, worker.is_open = slots, takes_jobs, takes_jobs
        self._count()

    def drop(self, member: str) -> None:
        self._workers.pop(member, None)
        self._count()

    def shun(self, member: str) -> None:
        """It did not take a job: leave it alone until its next heartbeat."""
        worker = self._workers.get(member)
        if worker is not None:
            worker.is_open = False

    def took(self, member: str) -> bool:
        """Whether `slots` is another number now."""
        worker = self._workers.get(member)
        if worker is not None:
            worker.held += 1
        return worker is not None and not worker.takes_jobs

    def left(self, member: str) -> bool:
        """Whether `slots` is another number now."""
        worker = self._workers.get(member)
        if worker is not None and worker.held > 0:
            worker.held -= 1
        return worker is not None and not worker.takes_jobs

    def forget_jobs(self) -> None:
        """Nobody holds anything: a new scheduler counts anew."""
        for worker in self._workers.values():
            worker.held = 0

    @property
    def slots(self) -> int:
        """Of all workers that take jobs, and those that jobs still hold where none are taken any more."""
        return sum(worker.slots if worker.takes_jobs else worker.held for worker in self._workers.values())

    def is_open(self, member: str) -> bool:
        """Whether a worker takes jobs, as far as is known."""
        worker = self._workers.get(member)
        return worker is not None and worker.is_open

    @property
    def taking(self) -> list[str]:
        """Who takes jobs."""
        return [name for name, worker in self._workers.items() if worker.takes_jobs]

    def choose(self, *, avoid: Collection[str] = ()) -> str | None:
        """Who should run the next job; this process where that is as good. None while nobody takes jobs.

        Those to `avoid` cannot call what the job is for.
        """
        if not self._others and not avoid:
            own = self._workers.get(self._own)
            return self._own if own is not None and own.is_open else None
        best: str | None = None
        best_load = 0.0
        for name, worker in self._workers.items():
            if not worker.is_open or name in avoid:
                continue
            load = worker.held / worker.slots if worker.slots else float("inf")
            if best is None or load < best_load or (load == best_load and name == self._own):
                best, best_load = name, load
        return best

    def _count(self) -> None:
        self._others = sum(1 for name, worker in self._workers.items() if name != self._own and worker.takes_jobs)
