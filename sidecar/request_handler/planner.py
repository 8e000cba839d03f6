"""What a job asks for: where it can run, what it will take of the quota, and how the model is asked."""

from collections.abc import Callable

import msgspec

from sidecar.adapters.bedrock.foresight import foresight
from sidecar.config.settings import BedrockSettings, CurrentPolicy, JobsSettings, Policy, TenantPolicy
from sidecar.conversation.run import ConversationPlan
from sidecar.conversation.tool_selection import ToolSelection, specs
from sidecar.conversation.tool_turn import OfferedTool
from sidecar.conversation.usage import dearest_factor
from sidecar.coordinator.prefixes import prompt_prefixes
from sidecar.coordinator.service import Coordinator, Selection
from sidecar.coordinator.token_estimate import request_tokens
from sidecar.errors import InvalidRequest, Permanent
from sidecar.models.call import CallLimits, ModelCall, ToolSpec
from sidecar.models.facts import RunFacts
from sidecar.models.profile import Candidate
from sidecar.models.prompt import PromptUse
from sidecar.models.request import InlineTool, JobRequest, Params
from sidecar.ports.bus import Clock, Lane, StoredRequest
from sidecar.request_handler import admission
from sidecar.request_handler.admission import AdmissionQuery, classify
from sidecar.request_handler.decode import AdmissionPlan, DecodedRequest
from sidecar.scheduler.tickets import Ticket

MOST_SPILL_PRICE = 2.0
MOST_KEPT_TOKENS = 16_384
OLD_S = 30.0
# The job's own timer ends a call first, and knows whether the timeout or the deadline was the reason.
CLIENT_GRACE_S = 1.0


class Planner:
    """Turns requests into tickets for the scheduler and calls for the models."""

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        clock: Clock,
        jobs: JobsSettings,
        bedrock: BedrockSettings,
        policy: CurrentPolicy,
        queued: Callable[[Lane], int],
        on_budget: Callable[[str], None],
        toolbox: ToolSelection,
    ) -> None:
        """`policy` is asked each time, so that a reload holds at once; `queued` counts a lane's jobs,
        the one that is being asked about included.

        `on_budget` is told of each tenant with a daily budget that queues a job.
        """
        self._coordinator = coordinator
        self._clock = clock
        self._jobs = jobs
        self._bedrock = bedrock
        self._policy = policy
        self._queued = queued
        self._on_budget = on_budget
        self._toolbox = toolbox
        self._aliases: dict[str, str | None] = {}

    def ticket(self, decoded: DecodedRequest, request: JobRequest, prompt: PromptUse | None) -> Ticket:
        """The job as the scheduler sees it; `decoded` keeps the plan that was made for that. `request` is the
        decoded one, with its template filled in.

        Raises SidecarError with the refusal of a job that cannot run.
        """
        stored = decoded.stored
        name, job_class = stored.lane
        tenant = self._policy.now.tenant(name)
        admission.check_tenant(name, policy=tenant)
        classify(name, job_class, allowed=tenant.classes)
        if request.filters or request.prompt is not None:
            _refuse_what_is_not_here(request, self._policy.now)
        tools = self._tools(stored, request) if request.tools else ()
        selection, tokens = self._select(stored, request, tenant, tools)
        max_tokens = self._max_tokens(request, tenant)
        asked = AdmissionQuery(
            tenant=name,
            input_tokens=tokens,
            max_tokens=max_tokens,
            pools={c.route.pool: c.route.limits for c in _affordable_stand_ins(request, selection)},
            queued=max(0, self._queued(stored.lane) - 1),
            now=self._clock.now(),
            deadline=request.deadline.timestamp() if request.deadline else None,
        )
        admission.admit(asked, policy=tenant)
        if tenant.budget_usd_per_day is not None:
            self._on_budget(name)
        # A few bytes can ask for megabytes: of those no queue is kept.
        kept = request if prompt is None or tokens <= MOST_KEPT_TOKENS else decoded.request or request
        decoded.plan = AdmissionPlan(kept, prompt, selection, tokens)
        return Ticket(
            seq=stored.seq,
            lane=stored.lane,
            job_id=decoded.job,
            size=len(stored.payload),
            stored_at=stored.stored_at,
            input_tokens=tokens,
            max_tokens=max_tokens,
            pools=tuple(asked.pools),
            deadline=asked.deadline,
            price_factor=dearest_factor(request),
        )

    def _tools(self, stored: StoredRequest, request: JobRequest) -> tuple[OfferedTool, ...]:
        """The tools that the sidecar is to run. Of an old request it is left to the job itself to look for them:
        it may have begun with one that has gone since, or have outlived an outage that providers come back from.
        """
        try:
            return self._toolbox.named(stored.lane.tenant, request)
        except Permanent as e:
            if e.code != "unknown_tool" or self._clock.now() - stored.stored_at < OLD_S:
                raise
        return ()

    def model_of(self, pool: str) -> str | None:
        """The alias of the model behind a quota pool."""
        if pool not in self._aliases:
            profile = self._coordinator.profile(pool.rpartition("@")[0])
            self._aliases[pool] = profile.alias if profile else None
        return self._aliases[pool]

    def plan(
        self, decoded: DecodedRequest, request: JobRequest, *, pool: str, deadline: float, facts: RunFacts
    ) -> ConversationPlan:
        """What a granted job asks of its models: its first call, for the candidate of the granted pool.

        `conversation.aiming` fits each call to its candidate later.
        """
        stored = decoded.stored
        tenant = self._policy.now.tenant(stored.lane.tenant)
        if decoded.plan is not None:
            selection, facts.input_estimate = decoded.plan.selection, decoded.plan.input_tokens
        else:
            selection, facts.input_estimate = self._select(stored, request, tenant, ())
        facts.warn(*selection.warnings)
        call = ModelCall(
            candidate=selection.candidates[0],
            messages=request.messages or (),
            system=request.system,
            params=self._params(request, tenant, facts),
            tools=tuple(_spec(tool) for tool in request.tools if isinstance(tool, InlineTool)),
            tool_choice=request.tool_choice,
            output_schema=request.output.schema if request.output else None,
            reasoning=request.reasoning,
            cache=request.cache,
            service_tier=request.service_tier,
            guardrail=request.guardrail,
            request_metadata={"tenant": stored.lane.tenant, "job": decoded.job},
            limits=self._limits(request, deadline),
        )
        plan = ConversationPlan(call, selection)
        if call.candidate.route.pool != pool:
            plan.call = msgspec.structs.replace(call, candidate=plan.candidate_on(pool))
        return plan

    def _select(
        self, stored: StoredRequest, request: JobRequest, tenant: TenantPolicy, tools: tuple[OfferedTool, ...]
    ) -> tuple[Selection, int]:
        tokens = request_tokens(request, tools=specs(tools) if tools else ())
        selection = self._coordinator.candidates(
            request,
            tenant=tenant,
            input_tokens=tokens,
            job_class=stored.lane.job_class,
            now=self._clock.now(),
            prefixes=prompt_prefixes(stored.lane.tenant, request, tokens=tokens),
            takes=foresight(request),
        )
        return selection, tokens

    def _max_tokens(self, request: JobRequest, tenant: TenantPolicy) -> int:
        asked = request.params.max_tokens or self._jobs.max_tokens
        return min(asked, tenant.max_tokens) if tenant.max_tokens else asked

    def _params(self, request: JobRequest, tenant: TenantPolicy, facts: RunFacts) -> Params:
        allowed = self._max_tokens(request, tenant)
        asked = request.params.max_tokens
        if asked is not None and allowed < asked:
            facts.warn(f"max_tokens was lowered from {asked} to {allowed}, the most this tenant may ask for")
        return msgspec.structs.replace(request.params, max_tokens=allowed)

    def _limits(self, request: JobRequest, deadline: float) -> CallLimits:
        left_s = max(0.001, deadline - self._clock.now())
        return CallLimits(
            connect_s=self._bedrock.connect_timeout_s,
            first_token_s=request.first_token_timeout_s or self._jobs.first_token_timeout_s,
            idle_s=request.idle_timeout_s or self._jobs.idle_timeout_s,
            total_s=left_s + CLIENT_GRACE_S,
        )


def _affordable_stand_ins(request: JobRequest, selection: Selection) -> tuple[Candidate, ...]:
    """The candidates whose quota the job may take at once, in order.

    A full quota of the best one is no reason to run at several times its price: where the sidecar chose, such
    candidates are left for failures. A chain that the request names is taken as it is.
    """
    if request.model is not None:
        return selection.candidates
    price = _output_price(selection.candidates[0])
    if price is None:
        return selection.candidates
    return tuple(
        candidate
        for candidate in selection.candidates
        if (other := _output_price(candidate)) is not None and other <= price * MOST_SPILL_PRICE
    )


def _output_price(candidate: Candidate) -> float | None:
    prices = candidate.profile.prices
    return prices[0].output * candidate.route.price_factor if prices else None


def _spec(tool: InlineTool) -> ToolSpec:
    return ToolSpec(name=tool.name, description=tool.description, input_schema=tool.input_schema)


def _refuse_what_is_not_here(request: JobRequest, policy: Policy) -> None:
    """Names that stand for nothing are refused rather than ignored."""
    for at, name in enumerate(request.filters):
        if name not in policy.filters:
            there = ", ".join(sorted(policy.filters)) or "none"
            raise InvalidRequest(
                f"no filter named {name!r} is configured: there are {there}", path=f"filters[{at}]"
            )
    if request.prompt is not None:
        raise InvalidRequest(f"no prompt template named {request.prompt.name!r} is stored", path="prompt.name")
