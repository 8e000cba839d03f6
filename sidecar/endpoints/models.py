"""The request/reply endpoint `models`: the catalogue as a tenant may use it."""

from typing import Protocol

from sidecar.config.settings import CurrentPolicy, Policy, TenantPolicy
from sidecar.models.api import ModelInfo, ModelsPage, schemas_of
from sidecar.models.codec import encode
from sidecar.models.subjects import checked
from sidecar.ports.bus import Clock, Endpoint, Query, Reply

# How old the health in an answer may be.
KEPT_S = 1.0

# Which models a tenant may use is all that answers differ by; None: every one.
_Allowed = tuple[str, ...] | None


class ModelsOf(Protocol):
    """Lists the models that a tenant with this policy may use, and how they are."""

    def __call__(self, tenant: TenantPolicy, *, now: float) -> tuple[ModelInfo, ...]: ...


class CatalogueQueries:
    """A page is encoded once for all who may use the same models."""

    def __init__(self, models_of: ModelsOf, *, policy: CurrentPolicy, clock: Clock) -> None:
        """`policy` is asked each time, so that a reload holds at once."""
        self._models_of = models_of
        self._policy = policy
        self._clock = clock
        self._made_of: Policy | None = None
        self._made: dict[_Allowed, tuple[float, bytes]] = {}

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (Endpoint("models", "models.*", self.models, schemas_of(None, ModelsPage)),)

    async def models(self, query: Query) -> Reply:
        """The catalogue as the tenant may use it."""
        name = checked(query.tokens[0] if len(query.tokens) == 1 else "", path="subject.tenant")
        policy = self._policy.now
        if policy is not self._made_of:
            # The catalogue itself may have changed with it.
            self._made_of = policy
            self._made.clear()
        tenant, now = policy.tenant(name), self._clock.monotonic()
        found = self._made.get(tenant.models)
        if found is None or found[0] < now:
            page = ModelsPage(models=self._models_of(tenant, now=self._clock.now()))
            found = self._made[tenant.models] = (now + KEPT_S, encode(page))
        return Reply(found[1])
