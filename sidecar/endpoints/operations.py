"""What operators ask for, and tenants of their own: pausing, cancelling and running again many jobs, and spend."""

from collections.abc import Callable

from sidecar.endpoints.bulk_cancel import BulkCancel
from sidecar.endpoints.pauses import PauseQueries
from sidecar.endpoints.retry import RetryQueries
from sidecar.endpoints.spend import SpendQueries
from sidecar.ports.bus import Blobs, Clock, DeadLetters, Endpoint, Intake, JobStore
from sidecar.ports.cluster import ClusterBus, PauseStore, SpendDays


class Operations:
    """`alias_of` gives the name that a model is known by, None for one that is not known."""

    def __init__(
        self,
        *,
        intake: Intake,
        store: JobStore,
        dead: DeadLetters,
        blobs: Blobs,
        pauses: PauseStore,
        spend_days: SpendDays,
        bus: ClusterBus,
        clock: Clock,
        alias_of: Callable[[str], str | None],
    ) -> None:
        self._parts = (
            SpendQueries(spend_days, clock=clock),
            RetryQueries(dead, intake, blobs, clock=clock),
            BulkCancel(intake, store),
            PauseQueries(pauses, bus, clock=clock, alias_of=alias_of),
        )

    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for part in self._parts for endpoint in part.endpoints())
