"""One replica: the parts, put together over ports. `app` gives it adapters."""

import logging
from collections.abc import Callable

from sidecar import __version__
from sidecar.cluster.mark_reading import MarkReading
from sidecar.cluster.pause_keeper import PauseKeeper
from sidecar.cluster.queue_desk import QueueDesk
from sidecar.cluster.request_service import RequestHandler
from sidecar.cluster.service import Cluster
from sidecar.cluster.spend_history import SpendHistory
from sidecar.config.settings import CurrentPolicy, Policy, Settings
from sidecar.conversation.child_jobs import ChildJobs
from sidecar.conversation.model_calls import ModelCaller
from sidecar.conversation.recovery import JournalRecovery
from sidecar.conversation.tenant_budget import TenantBudgets
from sidecar.conversation.tool_client import ToolClient
from sidecar.conversation.tool_execution import ToolExecutor
from sidecar.conversation.tool_selection import ToolSelection
from sidecar.conversation.troubles import Troubles
from sidecar.conversation.turns import Conversation
from sidecar.conversation.usage import appraise
from sidecar.coordinator.service import Coordinator
from sidecar.endpoints.jobs import Queries
from sidecar.endpoints.models import CatalogueQueries
from sidecar.endpoints.objects import Objects
from sidecar.endpoints.operations import operations
from sidecar.job_manager.keeping import KeepRule
from sidecar.job_manager.service import JobManager
from sidecar.models.codec import encode
from sidecar.models.holds import remedy_of, said_of
from sidecar.models.result import Result
from sidecar.models.stats import ReplicaState, Stats
from sidecar.models.subjects import Subjects
from sidecar.pipeline import Pipeline
from sidecar.ports.all import Ports as Ports
from sidecar.ports.bus import Lane
from sidecar.ports.cluster import PolicyStore
from sidecar.request_handler.decode import DecodedRequest
from sidecar.request_handler.planner import Planner
from sidecar.request_handler.prompts import Prompts
from sidecar.response_formatter.filters.policy import FilterPolicies
from sidecar.response_formatter.structured import StructuredAnswers
from sidecar.runtime.bounded_work import BoundedWork
from sidecar.runtime.grace import Grace
from sidecar.runtime.lifecycle import Tasks, Waker, logged
from sidecar.runtime.schema_checks import SchemaChecks
from sidecar.scheduler.meter import Meter
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import TenantCaps
from sidecar.telemetry.counters import Counters
from sidecar.telemetry.hold_stats import hold_stats
from sidecar.telemetry.stats import Own, SchedulerView, own_stats
from sidecar.telemetry.traced_ports import JobSpans, TracedModels, TracedTools
from sidecar.telemetry.tracing import Tracer
from sidecar.tool_registry.service import ToolRegistry
from sidecar.tool_registry.signature import ToolSignatures

log = logging.getLogger(__name__)

STATS_S = 1.0
RECHECK_AGAIN_S = 1.0
# When documents of running jobs are looked after first; then as often as they age.
FIRST_LOOK_S = 1.0
STATS_TOPIC = "stats"


class Replica:
    """The parts of one process, in the order in which they start and drain."""

    def __init__(
        self,
        settings: Settings,
        ports: Ports,
        *,
        name: str,
        on_crash: Callable[[BaseException], None],
        state: Callable[[], ReplicaState] = lambda: "running",
        tracer: Tracer | None = None,
        work: BoundedWork | None = None,
        clock_offset_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`state` is what statistics say of this replica; `tracer` makes the spans of its jobs; `clock_offset_s`
        says how far this machine's clock is ahead of the NATS server's, where that is known.

        `work` does what would hold up the event loop, and is closed with the replica.
        """
        self._clock_offset_s = clock_offset_s
        self.work = work or BoundedWork()
        self._checks = SchemaChecks(self.work)
        self._signatures = ToolSignatures(self._checks)
        self._answers = StructuredAnswers(self._checks, self.work)
        self._settings = settings
        self._ports = ports
        self._policy = CurrentPolicy(settings.policy)
        self._background, self._marks_missed = Tasks(on_crash), Waker(ports.clock)
        self.tally = Counters()
        self._tracer = tracer or Tracer()
        if self._tracer.is_active:
            ports = self._ports = ports._replace(
                models=TracedModels(ports.models, self._tracer), tool_bus=TracedTools(ports.tool_bus, self._tracer)
            )
        self._spans = JobSpans(self._tracer, Subjects(settings.nats.prefix), ports.clock)
        self._state = state
        self._started_at = ports.clock.monotonic()
        self.name = name
        self.coordinator = Coordinator(
            policy=self._policy.now, bedrock=settings.bedrock, default_max_tokens=settings.jobs.max_tokens
        )
        self.jobs = self._job_manager()
        self.troubles = Troubles(
            clock=ports.clock,
            look=lambda cause, region: self._ports.models.look(cause, region=region),
            retry_at=lambda pool: self.coordinator.retry_at(pool, now=ports.clock.now()),
            on_change=self._on_trouble,
        )
        region = settings.bedrock.regions[0]
        self.screening = FilterPolicies(self._policy.now, models=ports.models, region=region, work=self.work)
        self.prompts = Prompts(ports.prompts, work=self.work, clock=ports.clock, on_crash=on_crash)
        self.objects = self._objects()
        self.catalogue = CatalogueQueries(self.coordinator.models, policy=self._policy, clock=ports.clock)
        self.tools = self._registry(on_crash)
        self.cluster = self._cluster(on_crash)
        self.queue, self.queries = self._answering()
        self.spending = self._spending(on_crash)
        self.pauses = self._pause_keeper()
        self.requests = self._request_handler(on_crash)
        self._mark_reading = MarkReading(self.requests, ports.store, ports.clock, self._marks_missed)
        self.spend_history = self._spend_history()

    def _cluster(self, on_crash: Callable[[BaseException], None]) -> Cluster:
        return Cluster(
            bus=self._ports.bus,
            leases=self._ports.leases,
            checkpoints=self._ports.checkpoints,
            clock=self._ports.clock,
            name=self.name,
            slots=self._settings.scheduler.slots,
            version=__version__,
            on_crash=on_crash,
            on_disowned=self._on_disowned,
            clock_offset_s=self._clock_offset_s,
            troubles=self.troubles.report,
        )

    def _pause_keeper(self) -> PauseKeeper:
        return PauseKeeper(
            self._ports.pauses,
            self._ports.bus,
            clock=self._ports.clock,
            is_scheduling=lambda: self.requests.leader is not None,
            on_change=lambda pauses: self.requests.pause(pauses),
        )

    def _spend_history(self) -> SpendHistory:
        return SpendHistory(
            self._ports.spend_days,
            self._ports.intake,
            clock=self._ports.clock,
            term=lambda: self.cluster.term,
            alias_of=self._alias_of,
            events_s=self._settings.retention.events_s,
            state_s=self._settings.retention.state_s,
            on_today=lambda tenant, usd: self.scheduler.recall(tenant, usd, epoch=self._ports.clock.now()),
        )

    def _registry(self, on_crash: Callable[[BaseException], None]) -> ToolRegistry:
        return ToolRegistry(
            store=self._ports.tools,
            bus=self._ports.tool_bus,
            clock=self._ports.clock,
            policy=self._policy,
            subjects=Subjects(self._settings.nats.prefix),
            checks=self._checks,
            work=self.work,
            on_crash=on_crash,
        )

    def _answering(self) -> tuple[QueueDesk, Queries]:
        ports = self._ports
        queue = QueueDesk(leader=lambda: self.requests.leader, cluster=self.cluster, bus=ports.bus)
        return queue, Queries(ports.store, ports.publisher, ports.intake, queue=queue, clock=ports.clock)

    def _spending(self, on_crash: Callable[[BaseException], None]) -> TenantBudgets:
        return TenantBudgets(
            ledger=self._ports.spend,
            bus=self._ports.bus,
            clock=self._ports.clock,
            policy=self._policy,
            scheduling=lambda: self.requests.scheduler if self.requests.leader is not None else None,
            kick=lambda: self.requests.kick(),
            on_crash=on_crash,
        )

    def _objects(self) -> Objects:
        limit = self._settings.jobs.max_input_bytes
        return Objects(self._ports.blobs, max_input_bytes=limit, policy=self._policy)

    def _job_manager(self) -> JobManager:
        ports, settings = self._ports, self._settings
        return JobManager(
            store=ports.store,
            publisher=ports.publisher,
            intake=ports.intake,
            dead=ports.dead,
            blobs=ports.blobs,
            journal=ports.journal,
            clock=ports.clock,
            owner=self.name,
            max_attempts=settings.jobs.max_attempts,
            gather_s=settings.jobs.delta_ms / 1000,
            appraise=lambda stored, call: appraise(stored, call, coordinator=self.coordinator),
            restarts_since=lambda epoch_s: self.cluster.starts_since(epoch_s),
            keep_rule=KeepRule(
                settings.retention.dead_s, lambda tenant: self._policy.now.tenant(tenant).keep_failed
            ),
        )

    def _request_handler(self, on_crash: Callable[[BaseException], None]) -> RequestHandler:
        ports, scheduler = self._ports, self._settings.scheduler
        return RequestHandler(
            intake=ports.intake,
            checkpoints=ports.checkpoints,
            new_scheduler=self._scheduler,
            work=self._spans.around(self._pipeline()),
            cluster=self.cluster,
            clock=ports.clock,
            attempt_of=self.jobs.attempt_of,
            on_crash=on_crash,
            max_queue=self._max_queue,
            pauses=self.pauses.current,
            reconcile_s=scheduler.reconcile_s,
            check_s=scheduler.check_s,
        )

    @property
    def policies(self) -> PolicyStore:
        return self._ports.policies

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the current term; an idle one while another replica schedules."""
        return self.requests.scheduler

    def _scheduler(self) -> Scheduler:
        scheduler = self._settings.scheduler
        return Scheduler(
            classes={name: policy.weight for name, policy in self._policy.now.classes.items()},
            slots=scheduler.slots,
            tenants=self._caps,
            limits=self.coordinator.limits,
            price=self.coordinator.most_usd,
            meter=Meter(self.coordinator.price_on),
            interactive_reserve=scheduler.interactive_reserve,
            window=scheduler.window,
            max_hold_s=lambda name: self._policy.now.max_hold_s(name),
            model_of=self._model_of,
        )

    def _children(self) -> ChildJobs:
        ports, jobs = self._ports, self._settings.jobs
        return ChildJobs(
            intake=ports.intake,
            store=ports.store,
            publisher=ports.publisher,
            clock=ports.clock,
            most_depth=jobs.max_job_depth,
            most_bytes=jobs.max_tool_output_bytes,
        )

    def _turns(self, toolbox: ToolSelection, children: ChildJobs, journals: JournalRecovery) -> Conversation:
        ports, jobs = self._ports, self._settings.jobs
        tools = ToolClient(
            bus=ports.tool_bus,
            check_output=self._signatures.output_problem,
            work=self.work,
            clock=ports.clock,
            on_unknown=jobs.unknown_tool_outcome,
            most_bytes=jobs.max_tool_output_bytes,
        )
        return Conversation(
            caller=ModelCaller(
                coordinator=self.coordinator,
                models=ports.models,
                budgets=self.spending,
                troubles=self.troubles,
                clock=ports.clock,
                max_calls=jobs.max_calls,
            ),
            coordinator=self.coordinator,
            toolbox=toolbox,
            runner=ToolExecutor(
                journal=ports.journal,
                tools=tools,
                children=children,
                clock=ports.clock,
                most_at_once=jobs.max_parallel_tools,
            ),
            journals=journals,
            answers=self._answers,
            check_input=self._signatures.input_problem,
            clock=ports.clock,
            settings=jobs,
        )

    def _pipeline(self) -> Pipeline:
        ports, settings = self._ports, self._settings
        toolbox = ToolSelection(registry=self.tools, policy=self._policy)
        children = self._children()
        journals = JournalRecovery(
            journal=ports.journal, publisher=ports.publisher, children=children, clock=ports.clock
        )
        planner = Planner(
            coordinator=self.coordinator,
            clock=ports.clock,
            jobs=settings.jobs,
            bedrock=settings.bedrock,
            policy=self._policy,
            queued=lambda lane: self.requests.jobs_of(lane),
            on_budget=self.spending.want,
            toolbox=toolbox,
        )
        return Pipeline(
            planner=planner,
            troubles=self.troubles,
            on_ended=self._on_ended,
            jobs=self.jobs,
            turns=self._turns(toolbox, children, journals),
            journals=journals,
            objects=self.objects,
            prompts=self.prompts,
            budgets=self.spending,
            filters=self.screening,
            answers=self._answers,
            clock=ports.clock,
            settings=settings.jobs,
        )

    def _caps(self, tenant: str) -> TenantCaps:
        policy = self._policy.now.tenant(tenant)
        return TenantCaps(
            policy.weight, policy.max_concurrency, policy.tokens_per_minute, policy.budget_usd_per_day
        )

    def _max_queue(self, lane: Lane) -> int:
        """How many jobs of the lane the tenant may have, queued and running."""
        return self._policy.now.tenant(lane.tenant).max_queue

    async def start(self) -> None:
        """Hear cancellations before jobs, answer before working: nothing falls between."""
        await self._ports.store.listen_cancelled(self._on_cancel_mark, self._mark_reading.missed)
        await self.tools.start()
        await self._ports.endpoints.serve(
            (
                *self.queries.endpoints(),
                *self.objects.endpoints(),
                *self.tools.endpoints(),
                *self.catalogue.endpoints(),
                *operations(self._ports, alias_of=self._alias_of),
            )
        )
        await self.prompts.start()
        await self.spending.start()
        await self.queue.start()
        await self.pauses.start()
        await self.cluster.start(self.requests)
        self._background.spawn(self._tell_stats(), name="stats")
        self._background.spawn(self._recheck(), name="cancellations")
        self._background.spawn(self._mark_reading.run(), name="marks")
        self._background.spawn(self._keep_alive(), name="documents")
        self._background.spawn(self.spend_history.run(), name="spend-history")
        self._background.spawn(self.troubles.watch(), name="troubles")
        self._background.spawn(self.pauses.run(), name="pauses")

    async def step_back(self) -> None:
        """Give the lease back and take no more grants. What runs goes on, questions are answered. Repeatable."""
        try:
            await self.cluster.leave()
        finally:
            self.requests.drain()

    async def drain(self, grace: Grace) -> None:
        """Step back, let what runs finish within the grace, hand the rest back, say the last words."""
        endpoints = self._ports.endpoints
        await grace.farewell(self.step_back(), what="giving the lease back")
        await endpoints.drain(grace)
        if self.requests.running and not await grace.finish(self.requests.finish()):
            log.warning("running jobs are handed back", extra={"jobs": self.requests.running})
        await grace.farewell(self.requests.stop(), what="handing jobs back")
        await grace.farewell(self.spending.stop(), what="counting the last calls")
        if self.cluster.members > 1:
            # Their jobs go on elsewhere, and may end in time; where nobody else is they cannot.
            await grace.finish(self.queries.answered())
        self.queries.let_go()
        await grace.farewell(self.cluster.stop(), what="leaving the other replicas")
        await endpoints.stop(grace)
        for part in (self.prompts.stop(), self.tools.stop(), self._background.cancel(), self.work.close()):
            await grace.farewell(part, what="ending what runs in the background")

    def apply(self, policy: Policy) -> None:
        """Take a new policy over while running. Raises StartupError, and keeps the old one, if it is of no use."""
        filters = self.screening.made_for(policy)
        self.coordinator.apply(policy)
        self.screening.apply(policy, filters)
        self._policy.now = policy
        self.scheduler.set_policy(
            classes={name: policy.weight for name, policy in policy.classes.items()},
            tenants=self._caps,
            limits=self.coordinator.limits,
            now=self._ports.clock.monotonic(),
        )
        self.requests.kick()

    def outage(self) -> str | None:
        """Which models cannot be called now, and why; None when all can."""
        if (trouble := self.troubles.outage()) is not None:
            return trouble
        if held := self.cluster.held():
            return "; ".join(f"{said_of(cause)}: {remedy_of(cause)}" for cause in held)
        is_awaited = any(job.state.state == "waiting" for job in self.jobs.live)
        return self.coordinator.outage(self._ports.clock.now(), is_awaited=is_awaited)

    def stats(self) -> Stats:
        """What this replica knows of itself, and of all queues while it schedules."""
        clock, leader, now = self._ports.clock, self.requests.leader, self._ports.clock.monotonic()
        own = Own(
            replica=self.name,
            version=__version__,
            now=clock.now(),
            state=self._state(),
            uptime_s=now - self._started_at,
            slots=self._settings.scheduler.slots,
            slots_used=self.requests.slots_used,
            holds=hold_stats(self.troubles.now, self.cluster.held()),
        )
        meter = self.scheduler.meter
        if leader is None or meter is None:
            return own_stats(own)
        meter.forget_idle(now)
        books = SchedulerView(
            scheduler=self.scheduler,
            meter=meter,
            stored=leader.reader.stored(),
            in_flight=leader.running(),
            policy=self._policy.now,
            replicas=self.cluster.members,
            alias_of=self._alias_of,
            phases=self.coordinator.health(clock.now()),
            now=now,
        )
        return own_stats(own, books)

    def _model_of(self, pool: str) -> str | None:
        return self._alias_of(pool.rpartition("@")[0])

    def _alias_of(self, name: str) -> str | None:
        profile = self.coordinator.profile(name)
        return profile.alias if profile else None

    async def _tell_stats(self) -> None:
        while True:
            await self._ports.clock.sleep(STATS_S)
            with logged("telling statistics"):
                self._ports.bus.publish(STATS_TOPIC, encode(self.stats()))

    async def _recheck(self) -> None:
        """Every so often, and when the bus is back: again after a second where its answer is not there yet."""
        pause_s = self._settings.scheduler.reconcile_s
        while True:
            await self._marks_missed.wait(pause_s)
            pause_s = RECHECK_AGAIN_S
            with logged("looking for cancellations"):
                await self.jobs.recheck()
                pause_s = self._settings.scheduler.reconcile_s

    async def _keep_alive(self) -> None:
        pause_s = FIRST_LOOK_S
        while True:
            await self._ports.clock.sleep(pause_s)
            with logged("keeping documents of running jobs"):
                pause_s = await self.jobs.keep_alive()

    def _on_ended(self, opened: DecodedRequest, result: Result) -> None:
        stored = opened.stored
        self.tally.ended(stored.lane.tenant, result, job_class=stored.lane.job_class)
        self._spans.ended(result, opened)

    def _on_cancel_mark(self, tenant: str, job: str) -> None:
        if not self.jobs.cancel(tenant, job):
            self.requests.cancel(tenant, job)

    def _on_trouble(self) -> None:
        """Others are told before whatever the job that met it says, so that it is held with what it met."""
        self.cluster.beat()
        self.requests.troubled()

    def _on_disowned(self, tenant: str, job: str) -> None:
        self._background.spawn(self.jobs.check(tenant, job))
