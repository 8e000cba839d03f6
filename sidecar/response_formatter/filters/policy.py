"""Which filters hold for a job, made ready once for each policy: see docs/filters.md."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sidecar.config.filters import (
    OPTIONS,
    GuardrailOptions,
    SanitiseOptions,
    ScreenOptions,
    Treatment,
    parsed,
    split_plugin,
)
from sidecar.config.settings import FilterPolicy, Policy
from sidecar.errors import StartupError
from sidecar.models.content import Message
from sidecar.models.filtering import Direction, Filter
from sidecar.models.request import JobRequest
from sidecar.models.result import Result
from sidecar.ports.bus import Lane, ModelClient
from sidecar.response_formatter.filters.apart import with_source
from sidecar.response_formatter.filters.chain import FilterChain, JobChains
from sidecar.response_formatter.filters.filtering import TextFiltering
from sidecar.response_formatter.filters.guardrail import GuardrailFilter
from sidecar.response_formatter.filters.input_check import InputCheck
from sidecar.response_formatter.filters.making import made_by_plugin, plugin_rule, rule_of
from sidecar.response_formatter.filters.scanner import FilterRule, RuleSource
from sidecar.response_formatter.filters.stream import Chain, Judge
from sidecar.runtime.bounded_work import BoundedWork

# What stands for a request that could not be read.
_UNREAD = JobRequest(messages=(Message(role="user", content="?"),))
DEFAULT_SANITISER = "sanitise"
_STRICTNESS: Mapping[Treatment, int] = {"keep": 0, "mark": 1, "remove": 2}


class FilterEntry(NamedTuple):
    """One entry of `[filters]`, ready for use: one of the three is set."""

    on: frozenset[Direction]
    rule: FilterRule | None = None
    judge: Judge | None = None
    sanitise: SanitiseOptions | None = None


class FilterPolicies:
    """Makes each job's screen. `apply` a policy before anything else."""

    def __init__(self, policy: Policy, *, models: ModelClient, region: str, work: BoundedWork) -> None:
        """`work` filters what is long; `region` is where guardrails are that name none. Raises StartupError."""
        self._models = models
        self._work = work
        self._region = region
        self._policy = policy
        self._made: dict[str, FilterEntry] = {}
        self._chains: dict[tuple[tuple[str, ...], frozenset[str]], JobChains] = {}
        self.apply(policy)

    def apply(self, policy: Policy, made: Mapping[str, FilterEntry] | None = None) -> None:
        """Hold to another policy from now on, with what `made_for` made of it. Raises StartupError without."""
        self._made = dict(self.made_for(policy) if made is None else made)
        self._policy, self._chains = policy, {}

    def made_for(self, policy: Policy) -> Mapping[str, FilterEntry]:
        """The filters of another policy, ready for use. Raises StartupError."""
        return {
            name: self._made[name]
            if name in self._made and self._policy.filters.get(name) == entry
            else self._make(name, entry)
            for name, entry in policy.filters.items()
        }

    def screen(self, lane: Lane, request: JobRequest, *, job: str) -> FilterChain:
        """What holds for a job: the filters of its class, of its tenant, and those that its request names."""
        is_timed = request.first_token_timeout_s is not None or request.idle_timeout_s is not None
        return FilterChain(
            tenant=lane.tenant,
            job=job,
            job_class=lane.job_class,
            chains=self._chains_of(lane, request),
            is_streamed=request.stream or is_timed,
            work=self._work,
        )

    async def refused(self, lane: Lane, request: JobRequest | None, result: Result, *, job: str) -> Result:
        """The result of a job that never ran: its error may quote what the request says."""
        if not self._made:
            return result
        return await self.screen(lane, request or _UNREAD, job=job).stopped(result)

    def check(self, lane: Lane, request: JobRequest) -> InputCheck | None:
        """Whether a filter blocks what a request says, as far as that is known before it runs; None: no filter."""
        if not self._made:
            return None
        return InputCheck(self._chains_of(lane, request).input, request)

    async def check_later(self, lane: Lane, check: InputCheck) -> None:
        """Raise Permanent (`guardrail_blocked`), or InvalidRequest where that takes too long to find out."""
        await check.later(TextFiltering(lane.tenant, self._work))

    def _chains_of(self, lane: Lane, request: JobRequest) -> JobChains:
        """Made once for each set of filters that holds for a job."""
        effective, asked = self._effective(lane, request) if self._made else ((), frozenset())
        known = self._chains.get((effective, asked))
        if known is None:
            output, tools = self._chain(effective, asked, "output"), self._chain(effective, asked, "tools")
            known = JobChains(
                input=self._chain(effective, asked, "input"),
                output=output,
                tools=tools,
                is_plain=output.is_plain and tools.is_plain,
            )
            self._chains[effective, asked] = known
        return known

    def _effective(self, lane: Lane, request: JobRequest) -> tuple[tuple[str, ...], frozenset[str]]:
        """The names of all that hold, and of those that only the request asks for."""
        policy, names = self._policy, request.filters
        own = policy.tenant(lane.tenant).filters
        by_class = next((c.filters for name, c in policy.classes.items() if name == lane.job_class), ())
        return tuple(dict.fromkeys((*by_class, *own, *names))), frozenset(names) - {*own, *by_class}

    def _chain(self, names: tuple[str, ...], asked: frozenset[str], direction: Direction) -> Chain:
        # A reload may have taken a filter away that a job was admitted with.
        made = [(name, self._made[name]) for name in names if name in self._made]
        rules = tuple(one.rule for _, one in made if one.rule is not None and direction in one.on)
        judges = tuple(one.judge for _, one in made if one.judge is not None and direction in one.on)
        return with_source(Chain(self._sanitiser(made, asked), rules, judges))

    def _sanitiser(self, made: Sequence[tuple[str, FilterEntry]], asked: frozenset[str]) -> SanitiseOptions:
        default = self._made.get(DEFAULT_SANITISER)
        # What only the request asks for may add to the sanitiser, never take from it.
        base = default.sanitise if default is not None and default.sanitise is not None else SanitiseOptions()
        imposed = [one.sanitise for name, one in made if one.sanitise is not None and name not in asked]
        added = [one.sanitise for name, one in made if one.sanitise is not None and name in asked]
        chosen = [*(imposed or [base]), *added]
        return SanitiseOptions(
            controls=_strictest(options.controls for options in chosen),
            bidi=_strictest(options.bidi for options in chosen),
            invisible=_strictest(options.invisible for options in chosen),
            max_chars=min(options.max_chars for options in chosen),
        )

    def _make(self, name: str, entry: FilterPolicy) -> FilterEntry:
        try:
            if entry.kind in OPTIONS:
                return self._make_own(name, entry)
            return self._make_plugin(name, entry)
        except ValueError as e:
            raise StartupError(f"filters.{name}: {e}") from e

    def _make_own(self, name: str, entry: FilterPolicy) -> FilterEntry:
        options = parsed(entry.kind, entry.options)
        if isinstance(options, SanitiseOptions):
            return FilterEntry(frozenset(), sanitise=options)
        if isinstance(options, GuardrailOptions):
            guardrail = GuardrailFilter(options, models=self._models, region=self._region)
            return FilterEntry(
                frozenset(options.on), judge=Judge(name, entry.action, guardrail, options.segment_chars)
            )
        rule = rule_of(RuleSource(name, entry.action, entry.kind, dict(entry.options)))
        assert isinstance(options, ScreenOptions)  # noqa: S101
        return FilterEntry(frozenset(options.on), rule=rule)

    def _make_plugin(self, name: str, entry: FilterPolicy) -> FilterEntry:
        common, _ = split_plugin(entry.options)
        made = made_by_plugin(entry.kind, entry.options)
        rule = plugin_rule(RuleSource(name, entry.action, entry.kind, dict(entry.options)), made)
        if rule is not None:
            return FilterEntry(frozenset(common.on), rule=rule)
        if not isinstance(made, Filter):
            raise ValueError(f"kind: what {entry.kind!r} makes has neither `apply` nor what a detector has")
        judge = Judge(name, entry.action, made, getattr(made, "segment_chars", None))
        return FilterEntry(frozenset(common.on), judge=judge)


def _strictest(treatments: Any) -> Treatment:
    chosen: Treatment = max(treatments, key=lambda treatment: _STRICTNESS[treatment])
    return chosen
