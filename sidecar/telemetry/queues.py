"""Queued and running jobs of all lanes, summed up by class and tenant in one pass over them. Pure."""

from collections.abc import Mapping

from sidecar.ports.bus import Lane


class Queues:
    """`stored`: requests in the stream by lane, `in_flight`: granted of them. `classes` and `tenants` are weights.

    Lanes of classes that have no weight are left out.
    """

    def __init__(
        self,
        stored: Mapping[Lane, int],
        in_flight: Mapping[Lane, int],
        *,
        classes: Mapping[str, float],
        tenants: Mapping[str, float],
        any_tenant: float,
    ) -> None:
        self._classes = classes
        self._weights = tenants
        self._any = any_tenant
        self.busy: dict[Lane, tuple[int, int]] = {}
        self.lanes: dict[str, list[Lane]] = {}
        self.jobs: dict[str, int] = {}
        self.queued = dict.fromkeys(classes, 0)
        self.running = dict.fromkeys(classes, 0)
        self._weigh = dict.fromkeys(classes, 0.0)
        for lane, count in stored.items():
            self._add(lane, count, in_flight.get(lane, 0))
        for lane in in_flight.keys() - stored.keys():
            self._add(lane, 0, in_flight[lane])
        self._total = sum(classes[name] for name, weight in self._weigh.items() if weight) or 1.0

    def _add(self, lane: Lane, stored: int, running: int) -> None:
        tenant, name = lane
        if name not in self._weigh:
            return
        queued = stored - running if stored > running else 0
        self.busy[lane] = (queued, running)
        self.queued[name] += queued
        self.running[name] += running
        self._weigh[name] += self._weights.get(tenant, self._any)
        own = self.lanes.get(tenant)
        if own is None:
            self.lanes[tenant] = [lane]
            self.jobs[tenant] = queued + running
        else:
            own.append(lane)
            self.jobs[tenant] += queued + running

    def has_class(self, name: str) -> bool:
        """Whether a lane of the class is known."""
        return self._weigh[name] > 0

    def fair_share(self, tenant: str) -> float:
        """What the weights give a tenant that has work: its part of each of its classes."""
        weight = self._weights.get(tenant, self._any)
        return sum(
            weight * self._classes[lane.job_class] / self._total / self._weigh[lane.job_class]
            for lane in self.lanes.get(tenant, ())
        )
