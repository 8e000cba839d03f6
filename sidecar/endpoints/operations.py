"""What operators ask for, and tenants of their own: pausing, cancelling and running again many jobs, and spend."""

from collections.abc import Callable

from sidecar.endpoints.bulk_cancel import BulkCancel
from sidecar.endpoints.pauses import PauseQueries
from sidecar.endpoints.retry import RetryQueries
from sidecar.endpoints.spend import SpendQueries
from sidecar.ports.all import Ports
from sidecar.ports.bus import Endpoint


def operations(ports: Ports, *, alias_of: Callable[[str], str | None]) -> tuple[Endpoint, ...]:
    """Their endpoints. `alias_of` gives the name that a model is known by, None for one that is not known."""
    clock = ports.clock
    return (
        *SpendQueries(ports.spend_days, clock=clock).endpoints(),
        *RetryQueries(ports.dead, ports.intake, ports.blobs, clock=clock).endpoints(),
        *BulkCancel(ports.intake, ports.store, clock=clock).endpoints(),
        *PauseQueries(ports.pauses, ports.bus, clock=clock, alias_of=alias_of).endpoints(),
    )
