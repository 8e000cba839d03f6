"""By chance: submits, cancels, deadlines, second requests, deaths of the scheduler, lost doorbells. Whenever they
are compared, `get`, `jobs` and what is stored agree.
"""

import random
from typing import Any

import msgspec
import pytest

from sidecar.models.api import JobsPage
from sidecar.models.base import rfc3339
from sidecar.models.codec import state_or_none
from sidecar.ports.bus import Lane
from tests.support.jetstream.faults import deliver_once
from tests.support.replica import PLENTY, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

BODY = b'{"messages":[{"role":"user","content":"hello"}],"model":"claude-sonnet-4-5"%b}'
SCHEDULER = {"slots": 1, "interactive_reserve": 0.0, "window": 3}
TENANTS = ("acme", "globex")
Key = tuple[str, str]


class Chance:
    def __init__(self, b: Bench, seed: int) -> None:
        self.b = b
        self.dice = random.Random(seed)
        self.keys: list[Key] = []
        self.compared = 0
        self.names = iter(range(10_000))

    async def spawn(self) -> None:
        await self.b.replica(f"r{next(self.names)}", models=PLENTY, scheduler=SCHEDULER)

    async def submit(self) -> None:
        for _ in range(self.dice.randrange(1, 12)):
            is_second = bool(self.keys) and self.dice.random() < 0.15
            key = self.dice.choice(self.keys) if is_second else (self.dice.choice(TENANTS), f"j{len(self.keys)}")
            headers, more = {"Llm-Job-Id": key[1]}, b""
            soon = rfc3339(self.b.clock.now() + self.dice.uniform(0.5, 20.0))
            luck = self.dice.random()
            if luck < 0.15:
                headers["Llm-Deadline"] = soon
            elif luck < 0.3:
                more = b',"deadline":"%b"' % soon.encode()
            elif luck < 0.35:
                more = b',"wrong":1'
            lane = Lane(key[0], self.dice.choice(("standard", "batch")))
            await (await self.b.outside()).intake.submit(lane, BODY % more, headers)
            if not is_second:
                self.keys.append(key)

    async def cancel(self) -> None:
        if self.keys:
            await self.b.ask("cancel", *self.dice.choice(self.keys))

    async def wait(self) -> None:
        await self.b.clock.advance(self.dice.uniform(0.0, 4.0))

    async def lose(self) -> None:
        """Doorbells are lost for a while, all or every other one."""
        share = self.dice.choice((0.5, 1.0))
        luck = random.Random(self.dice.random())
        self.b.bus.deliveries = lambda delivery: (
            () if ".doorbell." in delivery.subject and luck.random() < share else (0.0,)
        )

    async def hear(self) -> None:
        self.b.bus.deliveries = deliver_once

    async def die(self) -> None:
        leaders = [replica for replica in self.b.replicas if replica.cluster.term]
        if leaders:
            self.b.kill(leaders[0])
            await self.spawn()

    def stored(self) -> dict[Key, tuple[str, int]]:
        """What the streams say of each job: its state, and the sequence of its request."""
        found: dict[Key, tuple[str, int]] = {}
        for entry in self.b.bus.requests.find():
            key = (entry.subject.split(".")[3], entry.headers["Llm-Job-Id"])
            found.setdefault(key, ("queued", entry.seq))
        for tenant, job in self.keys:
            last = self.b.bus.jobs.last(f"$KV.LLM_JOB.{tenant}.{job}")
            state = state_or_none(last.payload) if last is not None else None
            if state is not None:
                found[(tenant, job)] = (state.state, state.request_seq)
        return found

    async def compare(self) -> None:
        known = 0
        for key in self.dice.sample(self.keys, min(len(self.keys), 12)):
            before = self.stored()
            reply = await self.b.ask("get", *key)
            answer: dict[str, Any] = msgspec.json.decode(reply.payload)
            after = self.stored()
            if "Nats-Service-Error" in reply.headers:
                # Every one of them was acknowledged: nobody is told that there is none.
                assert answer["error"]["code"] == "not_ready"
                return
            said = (answer["state"], answer["request_seq"])
            assert said in (before[key], after[key]), key
            known += 1
        for tenant in TENANTS:
            before = self.stored()
            if (listed := await self.listed(tenant)) is None:
                return
            after = self.stored()
            expected = {key for key in self.keys if key[0] == tenant}
            assert sorted(listed) == sorted(expected)
            for key, state in listed.items():
                assert state in (before[key][0], after[key][0]), key
        self.compared += known

    async def listed(self, tenant: str) -> dict[Key, str] | None:
        found: dict[Key, str] = {}
        cursor: str | None = None
        while True:
            asked = {"limit": self.dice.randrange(1, 20), **({"cursor": cursor} if cursor else {})}
            reply = await self.b.ask("jobs", tenant, payload=msgspec.json.encode(asked))
            if "Nats-Service-Error" in reply.headers:
                return None
            page = msgspec.json.decode(reply.payload, type=JobsPage)
            for job in page.jobs:
                assert (tenant, job.job) not in found, f"{job.job} is listed twice"
                found[(tenant, job.job)] = job.state
            cursor = page.cursor
            if cursor is None:
                return found


MOVES = (
    *[Chance.submit] * 4,
    *[Chance.cancel] * 3,
    *[Chance.wait] * 4,
    *[Chance.compare] * 5,
    Chance.lose,
    Chance.hear,
    Chance.die,
)


@pytest.mark.parametrize("seed", range(8))
async def test_get_jobs_and_the_stream_agree(seed: int) -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, lambda _: says("x", first_s=1.0))) as b:
        chance = Chance(b, seed)
        b.bus.choose = chance.dice.choice
        for _ in range(2):
            await chance.spawn()
        await clock.advance(2.5)
        for _ in range(60):
            await chance.dice.choice(MOVES)(chance)
        await chance.hear()
        await b.until(lambda: b.requests() == 0, limit_s=900.0, every_s=0.5)
        await clock.advance(1.0)
        before = chance.compared
        await chance.compare()
        assert chance.compared > before
        assert before > 20
        (leader,) = [replica.requests.leader for replica in b.replicas if replica.requests.leader is not None]
        assert len(leader.stored.index) == 0
