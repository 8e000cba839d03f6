"""What became of requests to endpoints, counted cheaply, under few labels."""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from sidecar.adapters.nats.fair.turnstile import EndpointLoad
from sidecar.models.subjects import is_name

MOST_TENANTS = 200
OTHERS = "_other"
UNHEARD = "unheard"
# The party of the service's own subjects, which no tenant can be called.
CONTROL = "$SRV"


class EndpointFigures(NamedTuple):
    """What metrics say. `held` is by tenant, streams and the rest together."""

    requests: Mapping[tuple[str, str], int]
    tenants: Mapping[tuple[str, str], int]
    held: Mapping[str, EndpointLoad]


class EndpointCounts:
    """Requests by endpoint and outcome (`ok`, an error's code, or `unheard`: not answered), and by tenant."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.tenants: Counter[tuple[str, str]] = Counter()
        self._tenants: set[str] = set()

    def answered(self, endpoint: str, tenant: str, outcome: str) -> None:
        self.requests[endpoint, outcome] += 1
        self.tenants[self.label(tenant), "rate_limited" if outcome == "rate_limited" else "answered"] += 1

    def unheard(self, endpoint: str, tenant: str, times: int = 1) -> None:
        self.requests[endpoint, UNHEARD] += times
        self.tenants[self.label(tenant), UNHEARD] += times

    def label(self, tenant: str) -> str:
        """The tenant, or what stands for all past the 200th and for what is no name."""
        if tenant in self._tenants:
            return tenant
        if len(self._tenants) >= MOST_TENANTS or not (is_name(tenant) or tenant == CONTROL):
            return OTHERS
        self._tenants.add(tenant)
        return tenant

    def figures(self, load: Mapping[Hashable, EndpointLoad]) -> EndpointFigures:
        """`load` is what each party holds; a party is a tenant and whether it is its streams."""
        held: dict[str, EndpointLoad] = {}
        for party, one in load.items():
            tenant = self.label(party[0] if isinstance(party, tuple) else str(party))
            before = held.get(tenant, EndpointLoad())
            held[tenant] = EndpointLoad(*(a + b for a, b in zip(before, one, strict=True)))
        return EndpointFigures(self.requests, self.tenants, held)
