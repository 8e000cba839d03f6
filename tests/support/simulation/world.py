"""A fleet, its clients, strangers and all the bad luck of one seed: one move after another."""

import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from sidecar.adapters.nats.client import watchdog
from sidecar.config.settings import Settings
from sidecar.errors import BusUnavailable, ModelUnavailable, Throttled
from sidecar.models.api import CancelReply
from sidecar.models.call import ModelCall
from sidecar.models.codec import decode, state_or_none
from sidecar.ports.bus import Lane
from sidecar.replica import Replica
from sidecar.runtime.server_clock import ServerClock
from tests.support.garbage import ACKNOWLEDGEMENTS
from tests.support.jetstream.faults import NO_FAULT, Delivery, Fault, Operation, deliver_once, no_faults
from tests.support.jetstream.server import FakeJetStream
from tests.support.replica import MODEL, PLENTY, Bench, WrongClock
from tests.support.scripted_model import ScriptedModel, Turn, fails, says
from tests.support.simulation.history import History, Submitted
from tests.support.strange_documents import DOCUMENTS, bare
from tests.support.virtual_time import VirtualClock

MOST_REPLICAS = 4
SLOTS = 3
POLICY = {**PLENTY, "nova-lite": {"tokens_per_minute": 10**9, "requests_per_minute": 10**8}}
REQUEST = (
    b'{"messages":[{"role":"user","content":"hello"}],"model":["%b","nova-lite"],"params":{"max_tokens":9}%b}'
)
REFUSALS = (
    (503, 10008, "JetStream system temporarily unavailable"),
    (500, 10047, "insufficient storage resources"),
)
ENDS_WITHIN_S = 600.0
TRIES = 4


class Simulation:
    """`trouble` is the share of messages that something happens to."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.trouble = 0.0
        clock = VirtualClock()
        # Now and then three servers: writes take a moment, and whoever is asked may not know of them yet.
        servers = 3 if seed % 4 == 3 else 1
        settings = Settings(nats={"replicas": servers})  # type: ignore[arg-type]
        bus = FakeJetStream(clock, settings=settings, request_timeout_s=2.0, servers=servers)
        if servers > 1:
            bus.api.lag = lambda: self.luck.choice((0.0, 0.0, 0.02, 0.3))
        bus.choose = self.luck.choice
        self.bench = Bench(ScriptedModel(clock, self._turn), clock, bus)
        self.history = History()
        self.numbers = iter(range(1, 10_000))
        self.cut_off: set[str] = set()
        self.machines: dict[str, WrongClock] = {}

    async def begin(self, replicas: int) -> None:
        client = await self.bench.client()
        await client.subscribe("llm.v1.job.>", lambda message: self.history.hear(message.subject, message.payload))
        for _ in range(replicas):
            await self.spawn()

    # What may go wrong with each message, and with each call of a model.

    def _turn(self, call: ModelCall) -> Turn:
        luck = self.luck.random()
        first_s = self.luck.uniform(0.05, 6.0)
        if luck < 0.1:
            return fails(Throttled("too many"), first_s=first_s)
        if luck < 0.15:
            return fails(ModelUnavailable("away"), after="some text", first_s=first_s)
        return says("one two three", pieces=3, first_s=first_s, delta_s=0.2)

    def _fault(self, operation: Operation) -> Fault:
        share = self.trouble / 3 if operation.replica == "client" else self.trouble
        if self.luck.random() >= share:
            return NO_FAULT
        kind = self.luck.choice(["delay", "request", "ack", "late", "doubled", "refused"])
        if kind == "delay":
            return Fault(delay_s=self.luck.uniform(0.0, 3.0))
        if kind == "doubled":
            return Fault(is_doubled=True)
        if kind == "refused":
            return Fault(refusal=self.luck.choice(REFUSALS))
        return Fault(lose=kind, late_s=self.luck.uniform(0.0, 4.0))  # type: ignore[arg-type]

    def _delivery(self, delivery: Delivery) -> Sequence[float]:
        if delivery.replica == "client" or self.luck.random() >= self.trouble:
            return (0.0,)
        choices = ((), (0.0, 0.0), (self.luck.uniform(0.0, 2.0),), (0.0, self.luck.uniform(0.0, 8.0)))
        return self.luck.choice(choices)

    # Moves. Each draws what it needs from the luck it is given, and does nothing where it does not apply.

    async def submit(self, luck: random.Random) -> None:
        for _ in range(luck.randint(1, 5)):
            tenant, is_streamed = luck.choice(["acme", "beta"]), luck.random() < 0.5
            job = f"{tenant}-{next(self.numbers)}"
            is_stored = await self._stored(tenant, job, is_streamed)
            self.history.submitted[job] = Submitted(tenant, is_streamed, is_stored)

    async def _stored(self, tenant: str, job: str, is_streamed: bool) -> bool:
        """Publish as a careful client does: again with the same id until it is acknowledged."""
        payload = REQUEST % (MODEL.encode(), b',"stream":true' * is_streamed)
        headers = {"Llm-Job-Id": job, "Nats-Msg-Id": job}
        intake = (await self.bench.outside()).intake
        for _ in range(TRIES):
            try:
                await intake.submit(Lane(tenant, "standard"), payload, headers)
            except BusUnavailable:
                await self.bench.clock.sleep(0.5)
            else:
                return True
        return False

    async def wait(self, luck: random.Random) -> None:
        await self.bench.clock.advance(luck.uniform(0.01, 7.0))

    async def make_trouble(self, luck: random.Random) -> None:
        self.trouble = luck.choice([0.0, 0.05, 0.3])
        bus = self.bench.bus
        bus.faults, bus.deliveries, bus.replies = self._fault, self._delivery, self._delivery

    async def cancel(self, luck: random.Random) -> None:
        if self.history.submitted:
            job = luck.choice(sorted(self.history.submitted))
            await self._cancel(self.history.submitted[job].tenant, job)

    async def _cancel(self, tenant: str, job: str) -> None:
        client = await self.bench.client()
        try:
            reply = await client.request(self.bench.bus.subjects.endpoint("cancel", tenant, job))
        except BusUnavailable:
            return
        if "Nats-Service-Error" not in reply.headers and decode(reply.payload, CancelReply).cancelled:
            self.history.said_cancelled.add(job)

    async def spawn(self, luck: random.Random | None = None) -> None:
        if len(self.bench.replicas) < MOST_REPLICAS and self.bench.bus.is_up:
            name = f"r{next(self.numbers)}"
            machine = self.machines[name] = WrongClock(self.bench.clock)
            scheduler = {"slots": SLOTS, "interactive_reserve": 0.0}
            clock = ServerClock(machine)
            await self.bench.replica(name, clock=clock, asks_the_time=True, models=POLICY, scheduler=scheduler)

    async def crash(self, luck: random.Random) -> None:
        if self.bench.replicas:
            replica = luck.choice(self.bench.replicas)
            self.cut_off.discard(replica.name)
            self.bench.bus.heal(replica.name)
            self.bench.kill(replica)

    async def drain(self, luck: random.Random) -> None:
        if reachable := self._reachable():
            await self.bench.stop(luck.choice(reachable), grace_s=luck.choice([0.0, 2.0, 30.0]))

    async def cut(self, luck: random.Random) -> None:
        """Cut a replica off the network, for as long as nobody heals it."""
        if reachable := self._reachable():
            name = luck.choice(reachable).name
            self.cut_off.add(name)
            self.bench.bus.partition(name)

    async def heal(self, luck: random.Random | None = None) -> None:
        for name in sorted(self.cut_off):
            self.bench.bus.heal(name)
        self.cut_off.clear()

    async def drop(self, luck: random.Random) -> None:
        """Break a replica's connection; it may dial again at once."""
        if reachable := self._reachable():
            self.bench.bus.drop(luck.choice(reachable).name)

    async def restart_server(self, luck: random.Random) -> None:
        bus = self.bench.bus
        if bus.is_up:
            bus.stop()
            self.bench.clock.call_later(luck.choice([0.1, 3.0, 15.0]), bus.start)

    async def hold_up(self, luck: random.Random) -> None:
        """A replica's loop does nothing for a while: what comes waits, its timers too."""
        if reachable := self._reachable():
            name, seconds = luck.choice(reachable).name, luck.uniform(0.2, 4.0)
            self.machines[name].stalled_until = self.bench.clock.monotonic() + seconds
            self.bench.bus.partition(name)
            self.bench.clock.call_later(seconds, lambda: self._go_on(name))

    def _go_on(self, name: str) -> None:
        if name not in self.cut_off:
            self.bench.bus.heal(name)

    async def set_clock(self, luck: random.Random) -> None:
        """Step the clock of a replica's machine."""
        if self.bench.replicas:
            machine = self.machines[luck.choice(self.bench.replicas).name]
            machine.ahead_s = luck.choice([0.0, -3600.0, 3600.0, 2.5, -0.3])

    async def write_over_the_lease(self, luck: random.Random) -> None:
        payload = luck.choice(sorted(ACKNOWLEDGEMENTS.values()))
        self.bench.bus.write("$KV.LLM_CTL.lease.scheduler", payload)

    async def write_over_a_document(self, luck: random.Random) -> None:
        """A stranger's words where a job's document lies, without the headers of a replica."""
        if self.history.submitted:
            job = luck.choice(sorted(self.history.submitted))
            tenant = self.history.submitted[job].tenant
            last = self.bench.bus.jobs.last(f"$KV.LLM_JOB.{tenant}.{job}")
            # Most begin with what is there.
            if last is not None and state_or_none(last.payload) is not None:
                bare(DOCUMENTS[luck.choice(WRITES)])(self.bench.bus, tenant, job)

    async def aim(self, luck: random.Random) -> None:
        """Let the server acknowledge something to a subject of the product's."""
        jobs = [f"{asked.tenant}.{job}" for job, asked in sorted(self.history.submitted.items())]
        target = luck.choice(AIMS).format(job=luck.choice(jobs or ["acme.nobody"]))
        self.bench.bus.publish(luck.choice(ANSWERED), b"", reply=target.encode())

    def _reachable(self) -> list[Replica]:
        return [replica for replica in self.bench.replicas if not self.bench.bus.is_partitioned(replica.name)]

    # The end.

    async def settle(self) -> None:
        """No more trouble: everything must come to its end by itself."""
        bench, bus = self.bench, self.bench.bus
        await self.heal()
        bus.start()
        self.trouble = 0.0
        bus.faults, bus.deliveries, bus.replies = no_faults, deliver_once, deliver_once
        # Until those that were held up go on, and connections are there again.
        await bench.clock.advance(12.0)
        if not bench.replicas:
            await self.spawn()
        await bench.until(lambda: bench.requests() == 0, limit_s=ENDS_WITHIN_S, every_s=0.5)
        await bench.clock.advance(20.0)

    async def check(self) -> None:
        bench = self.bench
        assert not bench.crashes, bench.crashes
        for job, asked in self.history.submitted.items():
            events = await bench.events(job, tenant=asked.tenant)
            stored = await bench.stored(job, tenant=asked.tenant)
            self.history.check(job, events, stored.state if stored else None)
            self._check_given_up(job, asked.tenant, is_crash_loop=bool(events) and is_crash_loop(events[-1].data))
        self.check_nothing_leaks()

    def _check_given_up(self, job: str, tenant: str, *, is_crash_loop: bool) -> None:
        found = self.bench.bus.dead.find(self.bench.bus.subjects.dead(tenant, job))
        # Those of other failures go by themselves.
        letters = [entry for entry in found if "Nats-TTL" not in entry.headers]
        assert len(letters) == is_crash_loop, f"{job}: {len(letters)} dead letters"

    def check_nothing_leaks(self) -> None:
        """No slot, reservation or task is left of jobs that have ended."""
        bench = self.bench
        ledger = bench.leader.scheduler.ledger
        assert (ledger.slots_used, ledger.slots_used_by_others, len(ledger.open)) == (0, 0, 0)
        assert all(tenant.running == 0 for tenant in ledger.tenants.values())
        assert ledger.slots == SLOTS * len(bench.replicas)
        assert bench.leader.requests.leader is not None
        assert bench.leader.requests.leader.in_flight == 0
        for replica in bench.replicas:
            assert replica.requests.running == 0, replica.name
            assert replica.jobs.live == (), replica.name

    def check_one_schedules(self) -> None:
        everybody = (*self.bench.replicas, *self.bench.dead)
        schedule = [replica.name for replica in everybody if replica.cluster.term > 0]
        assert len(schedule) <= 1, f"{schedule} schedule at once"


def is_crash_loop(data: object) -> bool:
    error = getattr(data, "error", None)
    return error is not None and error.code == "crash_loop"


# What a stranger without a replica's headers may leave in a document's place.
WRITES = sorted(set(DOCUMENTS) - {"removed", "deleted", "purged"})
AIMS = (
    "$KV.LLM_JOB.{job}",
    "$KV.LLM_JOB.{job}.journal",
    "$KV.LLM_CANCEL.{job}",
    "llm.v1.log.{job}.delta",
    "llm.v1.log.{job}.result",
    "llm.v1.job.{job}.result",
    "$KV.LLM_CTL.checkpoint.scheduler",
    "$KV.LLM_TOOL.shared.orders.1_0_0",
    "llm.v1.sys.heartbeat",
    "llm.v1.sys.stats",
    "llm.v1.request.acme.standard",
)

# What the server, a replica or nobody answers.
ANSWERED = ("$JS.API.INFO", "$JS.API.STREAM.INFO.LLM_REQ", "llm.v1.get.acme.nobody", "nobody.there")

Move = tuple[str, int]
"""What happens next, and the seed of its luck."""

MOVES: Mapping[str, tuple[int, Callable[[Simulation, random.Random], Awaitable[None]]]] = {
    "submit": (5, Simulation.submit),
    "wait": (6, Simulation.wait),
    "make_trouble": (2, Simulation.make_trouble),
    "cancel": (2, Simulation.cancel),
    "spawn": (2, Simulation.spawn),
    "crash": (1, Simulation.crash),
    "drain": (1, Simulation.drain),
    "cut": (1, Simulation.cut),
    "heal": (2, Simulation.heal),
    "drop": (1, Simulation.drop),
    "restart_server": (1, Simulation.restart_server),
    "hold_up": (1, Simulation.hold_up),
    "set_clock": (1, Simulation.set_clock),
    "write_over_the_lease": (1, Simulation.write_over_the_lease),
    "write_over_a_document": (1, Simulation.write_over_a_document),
    "aim": (1, Simulation.aim),
}


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Let what the product draws by itself come from the seed too: ids, jitter of waits."""
    luck = random.Random(seed)
    random.seed(seed)
    with (
        patch.object(secrets, "token_hex", lambda size=32: luck.randbytes(size).hex()),
        patch.object(watchdog, "_RANDOM", luck),
    ):
        yield
