"""An hour without Bedrock over a thousand queued jobs of twenty tenants, virtual time: none is lost or fails."""

from collections import Counter
from typing import Any

import pytest

from tests.support.replica import MODEL, PLENTY, bench
from tests.unit.cluster.test_held_jobs import Outage, away, busy, expired

HOUR_S = 3600
MOST_PROBES = 130


@pytest.mark.parametrize(
    ("error", "replicas", "jobs"),
    [
        pytest.param(expired, ("one",), 1000, id="credentials expired"),
        pytest.param(away, ("one", "two", "three"), 250, id="endpoint away, two of three replicas restarted"),
        pytest.param(busy, ("one",), 250, id="503"),
    ],
)
async def test_an_hour_of_outage_loses_and_fails_no_job(error: Any, replicas: tuple[str, ...], jobs: int) -> None:
    outage = Outage(error)
    settings = {"models": PLENTY, "jobs": {"timeout_s": 60}, "retention": {"state_s": 7200, "events_s": 7200}}
    async with bench(outage.model) as b:
        await b.fleet(*replicas, slots=16, **settings)
        for n in range(jobs):
            await b.submit(tenant=f"t{n % 20}", job=f"j{n}", job_class="batch", model=[MODEL])
        await b.clock.advance(HOUR_S / 2)
        if len(replicas) > 1:
            b.kill(b.leader)
            await b.stop(b.followers[0])
            await b.clock.advance(20)
            again = await b.replica("four", **{"scheduler": {"slots": 16, "interactive_reserve": 0.0}, **settings})
            assert again in b.replicas
        await b.clock.advance(HOUR_S / 2)
        assert b.requests() == jobs
        # Within any hour, after what was under way when it began has met it.
        late = [at for at in outage.failed if at > outage.failed[0] + 5]
        assert len(late) <= MOST_PROBES + 16 * (len(replicas) > 1)
        outage.is_on, back_at = False, b.clock.monotonic()
        await b.until(lambda: b.requests() == 0, limit_s=300, every_s=0.5)
        assert b.clock.monotonic() - back_at <= 32 + 60
        states: Counter[str] = Counter()
        for n in range(jobs):
            stored = await b.stored(f"j{n}", tenant=f"t{n % 20}")
            states[stored.state.state if stored is not None else "lost"] += 1
        assert states == {"succeeded": jobs}
        assert max(Counter(len(call.messages) for call in b.model.calls).values()) <= jobs + len(outage.failed)
