"""Tells and hears who is there, and carries grants and operations between replicas.

What it decides stands in `lease`, `membership` and `grants`; the lease is kept by `office`, and what others say
goes to the `RequestHandler` of this process.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sidecar.cluster import messages
from sidecar.cluster.deference import is_any_better
from sidecar.cluster.grants import Workers
from sidecar.cluster.membership import BEAT_S, JOBS_A_BEAT, RETURN_S, Members
from sidecar.cluster.office import LeaseKeeper
from sidecar.cluster.outbox import OpQueue
from sidecar.cluster.restarts import RestartLog
from sidecar.errors import BusUnavailable, SidecarError
from sidecar.models.replica import (
    GrantOffer,
    GrantReply,
    Heartbeat,
    HeldJob,
    NextCallGrant,
    Ops,
    OpsReply,
    OwnershipDoubt,
    ReservationOp,
    Rollcall,
    Trouble,
    Wire,
)
from sidecar.models.shown import shown
from sidecar.ports.bus import Clock
from sidecar.ports.cluster import Checkpoints, ClusterBus, LeaseStore
from sidecar.runtime.lifecycle import Tasks
from sidecar.runtime.namesake import has_ended_here

if TYPE_CHECKING:
    from sidecar.cluster.request_service import RequestHandler

log = logging.getLogger(__name__)

# A round of heartbeats, and a little more.
ROUND_S = 1.2
POLL_S = 0.02
# After so many beats of its own a replica has heard of everybody.
BEATS_TO_KNOW = 3
OFFER_S = 2.0
ALONE_S = 0.5
_NAME = 48
LAST_OPERATIONS_S = 0.5


class Cluster:
    """One replica among its peers. `name` may be used again after this process; `own`, its member name, is not."""

    def __init__(
        self,
        *,
        bus: ClusterBus,
        leases: LeaseStore,
        checkpoints: Checkpoints,
        clock: Clock,
        name: str,
        slots: int,
        version: str,
        on_crash: Callable[[BaseException], None],
        on_disowned: Callable[[str, str], None],
        clock_offset_s: Callable[[], float | None] = lambda: None,
        troubles: Callable[[], tuple[Trouble, ...]] = lambda: (),
    ) -> None:
        """`clock_offset_s` says how far this machine's clock is ahead of the NATS server's, where known;
        `troubles` what is in the way of this replica's calls.
        """
        self._own_troubles = troubles
        self.name = name
        self.own = f"{name[:_NAME]}-{secrets.token_hex(4)}"
        self.version = version
        self._bus = bus
        self._clock = clock
        self._own_slots = slots
        self._on_disowned = on_disowned
        self._clock_offset_s = clock_offset_s
        self._census = RestartLog(checkpoints=checkpoints, clock=clock, own=self.own)
        self._tasks = Tasks(on_crash)
        self._takeovers = Tasks(on_crash)
        self._office = LeaseKeeper(
            leases=leases,
            clock=clock,
            own=self.own,
            on_term=self._on_term,
            on_end=self._step_down,
            on_back=self._on_back,
            is_leader_heard=lambda: self._members.leader(clock.monotonic()) is not None,
            is_better_there=self._is_better_there,
            is_predecessor=self._is_predecessor,
            on_left=lambda: self._publish(messages.RELEASED, b""),
            on_crash=on_crash,
        )
        self._leading = 0
        self._members = Members()
        self.workers = Workers(self.own)
        self._outbox = OpQueue(bus=bus, clock=clock, own=self.own, on_crash=on_crash)
        self._beats = 0
        self._is_alone = False
        self._back_at = -RETURN_S
        self._is_draining = False
        self._is_leaving = False
        self._is_started = False
        self._listening_since = 0.0
        self._beats_heard = 0
        self._is_newcomer = True
        self._handler: RequestHandler

    async def start(self, handler: "RequestHandler") -> None:
        """Listen, then speak, then try for the lease."""
        self._handler = handler
        self._is_started = True
        self.workers.update(self.own, slots=self._own_slots, takes_jobs=True)
        self._is_alone = await self._nobody_else()
        await self._bus.serve(messages.PRESENT, lambda _: b"")
        await self._bus.subscribe(messages.HEARTBEAT, self._on_heartbeat)
        await self._bus.subscribe(messages.ROLLCALL, self._on_rollcall)
        await self._bus.subscribe(messages.RELEASED, lambda _: self._office.wake())
        await self._bus.subscribe(messages.turns_to(self.own), self._on_turn)
        await self._bus.subscribe(messages.disowned_to(self.own), self._on_disowned_message)
        await self._bus.serve(messages.offers_to(self.own), self._on_offer)
        await self._bus.serve(messages.ops_to(self.own), self._on_ops)
        self._listening_since = self._clock.monotonic()
        self._tasks.spawn(self._keep_beating(), name="heartbeat")
        self._tasks.spawn(self._census.enter(), name="census")
        self._office.start()

    async def leave(self) -> None:
        """Schedule no more, and give the lease back at once; say that no jobs are taken any more. Repeatable."""
        if self._is_draining:
            return
        self._is_draining = True
        self.workers.update(self.own, slots=self._own_slots, takes_jobs=False)
        self._step_down()
        if await self._office.give_up():
            self._publish(messages.RELEASED, b"")
        self.beat()

    async def stop(self) -> None:
        """Say the last words, and be gone."""
        try:
            await self.leave()
            await self._outbox.close(LAST_OPERATIONS_S)
        finally:
            # Also where there was no time for the above: others need not wait until this replica counts as silent.
            self._is_leaving = True
            self.beat()
            await self._takeovers.cancel()
            await self._tasks.cancel()
            await self._bus.close()

    # The crew, as the request handler sees it.

    @property
    def term(self) -> int:
        return self._leading if self._leading and self._leading == self._office.term else 0

    @property
    def scheduler(self) -> str | None:
        """The member that schedules, as far as is known here."""
        if self.term:
            return self.own
        leader = self._members.leader(self._clock.monotonic())
        return leader.beat.member if leader is not None and leader.beat.member != self.own else None

    @property
    def slots(self) -> int:
        return self.workers.slots

    @property
    def members(self) -> int:
        """How many replicas are there, this one included."""
        return 1 + sum(1 for member in self._members if member != self.own)

    async def starts_since(self, epoch_s: float) -> int:
        """How many replicas have started since then, this one included. Raises BusUnavailable."""
        return await self._census.since(epoch_s)

    def took(self, worker: str) -> None:
        if self.workers.took(worker):
            self._handler.resized()

    def left(self, worker: str) -> None:
        if self.workers.left(worker):
            self._handler.resized()

    def has_name(self, name: str) -> bool:
        return self._members.has_name(name)

    async def offer(self, worker: str, offer: GrantOffer) -> int | None:
        try:
            payload = await self._bus.request(
                messages.offers_to(worker), messages.encode(offer), timeout_s=OFFER_S
            )
        except SidecarError as e:
            log.info("a grant was not answered", extra={"worker": worker, "job": offer.job, "error": e.message})
            self.workers.shun(worker)
            return None
        reply = messages.decode(payload, GrantReply)
        if reply is None or not reply.is_taken:
            self.workers.shun(worker)
            return None
        return reply.beat

    def answer(self, worker: str, turn: NextCallGrant) -> None:
        self._tell(messages.turns_to(worker), turn)

    def disown(self, worker: str, tenant: str, job: str) -> None:
        self._tell(messages.disowned_to(worker), OwnershipDoubt(tenant=tenant, job=job))

    def post(self, op: ReservationOp) -> None:
        self._outbox.post(op)

    # Heartbeats.

    def beat(self) -> None:
        """Say now what the next heartbeat would say. Nothing where the start was broken off before this part's."""
        if not self._is_started:
            return
        self._beats += 1
        jobs, offset_s = tuple(self._handler.report()), self._rounded_offset()
        troubles, held = self._own_troubles(), self._handler.held_causes()
        parts = max(1, -(-len(jobs) // JOBS_A_BEAT))
        for part in range(parts):
            self._tell(
                messages.HEARTBEAT,
                Heartbeat(
                    member=self.own,
                    name=self.name,
                    n=self._beats,
                    slots=self._own_slots,
                    version=self.version,
                    is_draining=self._is_draining,
                    is_leaving=self._is_leaving,
                    term=self._leading,
                    clock_offset_s=offset_s,
                    troubles=troubles,
                    held=held,
                    part=part + 1,
                    parts=parts,
                    jobs=jobs[part * JOBS_A_BEAT : (part + 1) * JOBS_A_BEAT],
                ),
            )

    async def _keep_beating(self) -> None:
        while True:
            self.beat()
            await self._clock.sleep(BEAT_S)
            # Silence proves nothing while this replica itself is cut off.
            silent = [] if self._office.is_cut_off else self._members.sweep(self._clock.monotonic(), keep=self.own)
            self._beats_heard += not self._office.is_cut_off
            for member in silent:
                log.warning("a replica has fallen silent", extra={"member": shown(member)})
                self._gone(member)

    def _on_heartbeat(self, payload: bytes) -> None:
        beat = messages.decode(payload, Heartbeat)
        if beat is None or beat.member == self.own:
            return
        if beat.is_leaving:
            if self._members.remove(beat.member) is not None:
                self._gone(beat.member)
            return
        heard = self._members.hear(beat, self._clock.monotonic())
        if beat.term:
            self._on_leader(beat.member, beat.term)
        member = heard.member or self._members.get(beat.member)
        if member is None:
            return
        self.workers.update(beat.member, slots=beat.slots, takes_jobs=member.takes_jobs)
        if heard.is_new:
            log.info("a replica is there", extra={"member": shown(beat.member), "version": shown(beat.version)})
        if heard.is_changed:
            self._handler.resized()
        elif heard.tells:
            self._handler.troubled()
        if heard.member is not None:
            self._handler.heard(beat.member, member.n, member.jobs)

    def _gone(self, member: str) -> None:
        """Its jobs first, then its slots: what it held is granted again among those who stay."""
        self.workers.update(member, slots=0, takes_jobs=False)
        self._handler.silent(member)
        self.workers.drop(member)
        self._handler.resized()
        self._office.wake()

    def _on_rollcall(self, payload: bytes) -> None:
        call = messages.decode(payload, Rollcall)
        if call is not None and call.member != self.own:
            self._on_leader(call.member, call.term)
            self.beat()

    def _on_leader(self, member: str, term: int) -> None:
        self._handler.saw_term(term)
        self._outbox.direct(member, term)

    # Grants and operations.

    def _on_offer(self, payload: bytes) -> bytes:
        offer = messages.decode(payload, GrantOffer)
        if offer is None:
            return messages.encode(GrantReply(is_taken=False, reason="unreadable"))
        self._on_leader(offer.leader, offer.term)
        reason = self._handler.take(offer)
        return messages.encode(GrantReply(is_taken=reason is None, reason=reason or "", beat=self._beats))

    def _on_ops(self, payload: bytes) -> bytes:
        batch = messages.decode(payload, Ops)
        is_leader = batch is not None and self._handler.apply(batch.member, batch.ops)
        return messages.encode(OpsReply(is_leader=is_leader))

    def _on_turn(self, payload: bytes) -> None:
        turn = messages.decode(payload, NextCallGrant)
        if turn is not None:
            self._handler.answered(turn)

    def _on_disowned_message(self, payload: bytes) -> None:
        disowned = messages.decode(payload, OwnershipDoubt)
        if disowned is not None:
            self._on_disowned(disowned.tenant, disowned.job)

    def _tell(self, topic: str, message: Wire) -> None:
        self._publish(topic, messages.encode(message))

    def _publish(self, topic: str, payload: bytes) -> None:
        try:
            self._bus.publish(topic, payload)
        except SidecarError as e:
            log.debug("a message to the other replicas was not sent", extra={"topic": topic, "error": e.message})

    # The lease.

    def _rounded_offset(self) -> float | None:
        offset_s = self._clock_offset_s()
        return None if offset_s is None else round(offset_s, 3)

    def _is_better_there(self) -> bool:
        """Whether a replica that could schedule has a clock that is clearly nearer to the server's."""
        others = self._members.clock_offsets(self._clock.monotonic())
        return is_any_better(others, than=self._clock_offset_s())

    async def _nobody_else(self) -> bool:
        """Whether no other replica is connected. Then nobody's jobs need to be waited for."""
        try:
            await self._bus.request(messages.PRESENT, b"", timeout_s=ALONE_S)
        except BusUnavailable as e:
            return e.details.get("status") == 503
        return False

    def _is_predecessor(self, holder: str) -> bool:
        """Whether a lease's holder bore this replica's name and is gone: nobody else was connected at the start,
        and nobody has been heard since. A process that was cut off from the bus with the lease grants nothing.

        A name that was made up of host and process id counts where that process of this machine has ended.
        """
        is_alone = self._is_alone and all(member == self.own for member in self._members)
        name, _, number = holder.rpartition("-")
        if not is_alone or len(number) != 8 or holder == self.own:
            return False
        # A name as long as the bound may have lost digits of its process id.
        return name == self.name[:_NAME] or (len(name) < _NAME and has_ended_here(name, own=self.name))

    def _on_term(self, term: int) -> None:
        self._takeovers.spawn(self._take_over(term), name="take-over")

    def _step_down(self) -> None:
        if self._leading:
            log.info("this replica schedules no more", extra={"term": self._leading})
            self._leading = 0
            self._handler.follow()

    async def _take_over(self, term: int) -> None:
        """Hear what everybody is running, then schedule."""
        self._tell(messages.ROLLCALL, Rollcall(member=self.own, term=term))
        await self._hear_all(self._clock.monotonic())
        if self._office.term != term or self._is_draining:
            return
        log.info("this replica schedules", extra={"term": term, "members": self.members})
        self.workers.forget_jobs()
        self._leading = term
        self._outbox.direct(self.own, term)
        await self._handler.lead(term, self._reports)
        self.beat()

    def _on_back(self) -> None:
        """After an outage of the bus everybody gets the time to come back and be heard."""
        self._back_at = self._clock.monotonic()
        self._members.excuse(self._back_at)
        self._is_newcomer = self._beats_heard < BEATS_TO_KNOW

    async def _hear_all(self, since: float) -> None:
        """Wait for a heartbeat of everybody known, and for those unknown as long as a round takes."""
        until = max(since + ROUND_S, self._back_at + RETURN_S)
        if self._is_newcomer and not self._is_alone and self._back_at > self._listening_since:
            # Cut off before it had heard everybody: those whom it does not know may be on their way back too.
            await self._clock.sleep(until - self._clock.monotonic())
            self._is_newcomer = False
        elif self._is_alone or since - self._listening_since >= ROUND_S:
            while self._clock.monotonic() < until and self._unheard(since):
                await self._clock.sleep(POLL_S)
        else:
            await self._clock.sleep(max(0.0, self._listening_since + ROUND_S - self._clock.monotonic()))

    def told(self) -> dict[str, tuple[Trouble, ...]]:
        """What is in whose way, of those that tell."""
        others = {m: member.beat.troubles for m, member in self._members.items() if m != self.own}
        return {self.own: self._own_troubles(), **{m: told for m, told in others.items() if told is not None}}

    def held(self) -> tuple[str, ...]:
        """Why jobs are held, as whoever schedules says."""
        if self._leading:
            return self._handler.held_causes()
        leader = self._members.leader(self._clock.monotonic())
        return leader.beat.held if leader is not None else ()

    def _unheard(self, since: float) -> bool:
        return any(member.heard_at < since for _, member in self._members.items())

    def _reports(self) -> Mapping[str, tuple[int, Mapping[int, HeldJob]]]:
        return {name: (member.n, member.jobs) for name, member in self._members.items()}
