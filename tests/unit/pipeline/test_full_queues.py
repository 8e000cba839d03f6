"""Lanes at their cap, in virtual time: read in order, never standing still, everyone's share as ever."""

from collections import Counter
from typing import Any

import pytest

from sidecar.models.call import ModelCall
from tests.support.replica import MODEL, PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, says
from tests.support.virtual_time import VirtualClock

RUN_S = 12.0
CALL_S = 0.1


def text_of(call: ModelCall) -> str:
    content = call.messages[0].content
    return content if isinstance(content, str) else content[0].text  # type: ignore[union-attr]


class Calls:
    """A model that takes `CALL_S` for everything, and when it was called by whom: the text is the job's id."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.order: list[str] = []
        self.at: list[float] = []
        self.model = ScriptedModel(self.clock, self._turn)

    def _turn(self, call: ModelCall) -> Turn:
        self.order.append(text_of(call))
        self.at.append(self.clock.monotonic())
        return says("ok", first_s=CALL_S)


async def send(b: Bench, job: str, tenant: str) -> None:
    request = {"messages": [{"role": "user", "content": job}], "model": MODEL}
    await b.submit(request, job=job, tenant=tenant)


@pytest.mark.parametrize("most", [20, 60])
@pytest.mark.parametrize("outstanding", [-1, 0, 3])
async def test_a_tenant_at_its_cap_is_served_in_order_and_without_a_stand_still(
    most: int, outstanding: int
) -> None:
    """Whoever keeps as many jobs outstanding as it may waits for what stands before it, and no longer."""
    calls, slots = Calls(), 4
    async with bench(calls.model) as b:
        await b.fleet("one", slots=slots, models=PLENTY, tenants={"acme": {"max_queue": most}})
        sent: dict[str, float] = {}
        done: dict[str, float] = {}
        refused = 0
        began = b.clock.monotonic()
        while b.clock.monotonic() - began < RUN_S:
            for job in [job for job in sent if job not in done]:
                stored = await b.stored(job)
                if stored is not None and stored.state.result is not None:
                    done[job] = b.clock.monotonic()
                    refused += stored.state.result.state == "rejected"
            while len(sent) - len(done) < most + outstanding:
                job = f"j{len(sent)}"
                sent[job] = b.clock.monotonic()
                await send(b, job, "acme")
            await b.clock.advance(0.02)
        ran = [int(job[1:]) for job in calls.order]
        assert ran == sorted(ran)
        gaps = [after - before for before, after in zip(calls.at, calls.at[1:], strict=False)]
        assert max(gaps) <= CALL_S + 0.3
        assert len(ran) >= 0.9 * RUN_S * slots / (CALL_S + 0.02)
        waits = sorted(done[f"j{n}"] - sent[f"j{n}"] for n in ran if f"j{n}" in done)
        expected = (most / slots) * (CALL_S + 0.02)
        assert waits[int(0.99 * len(waits))] <= 1.3 * expected
        if outstanding <= 0:
            assert refused == 0


@pytest.mark.parametrize("most", [10, 200])
async def test_a_flood_over_its_cap_gets_its_weights_share_and_the_rest_is_refused(most: int) -> None:
    """However much of it is refused meanwhile, its lane goes on like any other, in its order."""
    calls = Calls()
    async with bench(calls.model) as b:
        tenants: dict[str, Any] = {
            "flood": {"max_queue": most},
            "heavy": {"weight": 3, "max_queue": 100},
            "light": {"max_queue": 100},
        }
        await b.fleet("one", slots=4, models=PLENTY, tenants=tenants)
        for n in range(90):
            await send(b, f"heavy-{n}", "heavy")
            await send(b, f"light-{n}", "light")
        sent = 0
        while sum(job.startswith("heavy") for job in calls.order) < 90:
            for _ in range(10):
                await send(b, f"flood-{sent}", "flood")
                sent += 1
            await b.clock.advance(0.02)
        last = max(n for n, job in enumerate(calls.order) if job.startswith("heavy"))
        during = Counter(job.split("-")[0] for job in calls.order[:last])
        assert during["flood"] == pytest.approx(during["light"], abs=3)
        assert during["heavy"] == pytest.approx(3 * during["light"], abs=6)
        await b.clock.advance(0.15 * (most + 90))
        ran = [int(job.split("-")[1]) for job in calls.order if job.startswith("flood")]
        assert ran == sorted(ran)
        states = Counter[str]()
        for n in range(sent):
            stored = await b.stored(f"flood-{n}", tenant="flood")
            states["none" if stored is None else stored.state.state] += 1
        assert set(states) == {"rejected", "succeeded"}
        assert states["succeeded"] == len(ran)
        assert len(ran) >= most
