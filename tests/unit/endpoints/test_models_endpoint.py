"""The catalogue is made once for many who ask, and anew where it may have changed."""

import pytest

from sidecar.config.settings import CurrentPolicy, Policy, TenantPolicy
from sidecar.endpoints.models import KEPT_S, CatalogueQueries
from sidecar.errors import InvalidRequest
from sidecar.models.api import ModelInfo
from sidecar.ports.bus import Query
from tests.support.virtual_time import VirtualClock


class Catalogue:
    """Counts how often a page is made, and for whom."""

    def __init__(self) -> None:
        self.made: list[tuple[str, ...] | None] = []
        self.policy = CurrentPolicy(Policy(tenants={"few": TenantPolicy(models=("nova-lite",))}))
        self.clock = VirtualClock()
        self.queries = CatalogueQueries(self._page, policy=self.policy, clock=self.clock)

    def _page(self, tenant: TenantPolicy, *, now: float) -> tuple[ModelInfo, ...]:
        self.made.append(tenant.models)
        return ()

    async def ask(self, *tenants: str) -> None:
        for tenant in tenants:
            assert (await self.queries.models(Query("models", (tenant,), b"", {}))).payload == b'{"models":[]}'


async def test_a_page_is_made_once_for_all_who_may_use_the_same() -> None:
    catalogue = Catalogue()
    await catalogue.ask("acme", "globex", "few", "acme", "few")
    assert catalogue.made == [None, ("nova-lite",)]


async def test_a_page_is_made_anew_after_a_second_and_after_a_reload() -> None:
    catalogue = Catalogue()
    await catalogue.ask("acme")
    await catalogue.clock.advance(KEPT_S + 0.1)
    await catalogue.ask("acme", "acme")
    assert len(catalogue.made) == 2
    catalogue.policy.now = Policy()
    await catalogue.ask("few", "acme")
    assert catalogue.made == [None, None, None]


async def test_what_is_no_tenant_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        await Catalogue().queries.models(Query("models", ("a", "b"), b"", {}))
