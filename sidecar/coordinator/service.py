"""The coordinator: one object that knows the models, their health and their prices, and picks among them.

Everything it decides is pure in `catalogue`, `select`, `fallback`, `health` and `cost`; what it holds is the state
they need: breakers, measured speed, warm caches. Synchronous, without I/O, for one event loop.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from sidecar.config.settings import BedrockSettings, Policy, TenantPolicy
from sidecar.coordinator import cost, fallback, select
from sidecar.coordinator.catalogue import Catalogue, ModelRow, ResolvedName
from sidecar.coordinator.entry import Entry, Shelf, speed_score
from sidecar.coordinator.fallback import Decision, Failure, Final, Held, Next, Opening, Wait
from sidecar.coordinator.health import Caller, Phase, Success
from sidecar.coordinator.inference import Inferred, infer
from sidecar.coordinator.listing import model_info, no_region, why_unusable
from sidecar.coordinator.pools import Begun, Observation, Pools
from sidecar.coordinator.select import Refusal, Search, Takes
from sidecar.errors import ErrorCode, JobCancelled, Permanent, SidecarError
from sidecar.models.api import ModelInfo
from sidecar.models.event import Rejected
from sidecar.models.profile import Candidate, ModelProfile, QuotaLimits
from sidecar.models.request import JobRequest
from sidecar.models.result import Usage

MAX_CANDIDATES = 16
MAX_STAND_INS = 4
MAX_STAND_IN_PRICE = 2.0
MAX_NAMES = 4096

_CODE_OF_STAGE: dict[str, ErrorCode] = {
    "unknown": "unknown_model",
    "tenant": "tenant_denied",
    "lifecycle": "unknown_model",
    "region": "unknown_model",
    "kind": "invalid_request",
    "capability": "invalid_request",
    "context": "context_overflow",
    "output": "invalid_request",
    "budget": "budget_exceeded",
    "shape": "invalid_request",
}


class Selection(NamedTuple):
    """Candidates in the order to be tried, at least one; those passed over; why the first is first.

    `reserve`: further candidates whose breakers are open; `decide` may come to them, nobody should start with one.
    `wait_s` is above 0 when every candidate's breaker is open: wait so long before the first is called.
    `warnings` belong into the job's result. `prefixes`: what of the prompt a cache may hold.
    """

    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    reason: str
    wait_s: float = 0.0
    warnings: tuple[str, ...] = ()
    reserve: tuple[Candidate, ...] = ()
    prefixes: tuple[bytes, ...] = ()


class Coordinator:
    def __init__(
        self,
        *,
        policy: Policy,
        bedrock: BedrockSettings,
        default_max_tokens: int = 4096,
        rows: Iterable[ModelRow] | None = None,
    ) -> None:
        """Raises StartupError when `[models]` cannot be used. `rows` replace the shipped data (tests)."""
        self._bedrock = bedrock
        self._default_max_tokens = default_max_tokens
        self._rows = None if rows is None else tuple(rows)
        self._pools = Pools()
        self.apply(policy)

    def apply(self, policy: Policy) -> None:
        """Take a new policy over. Raises StartupError, and keeps the old one, when it cannot be used."""
        catalogue = Catalogue(policy=policy, regions=self._bedrock.regions, rows=self._rows)
        self._catalogue = catalogue
        self._selection = policy.selection
        self._allowed: dict[tuple[str, ...], frozenset[str]] = {}
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._by_pool: dict[str, Candidate | None] = {}
        self._shelf = Shelf(e for p in catalogue.profiles if p.kinds for e in self._entries_of(p.alias, p))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the configuration made us guess, for the log at start."""
        return self._catalogue.warnings

    def candidates(
        self,
        request: JobRequest,
        *,
        tenant: TenantPolicy,
        input_tokens: int,
        job_class: str,
        now: float,
        prefixes: tuple[bytes, ...] = (),
        headroom: Mapping[str, float] | None = None,
        takes: Takes | None = None,
    ) -> Selection:
        """Who can serve the request, in the order to be tried.

        `prefixes`: of the prompt, longest first (`prompt_prefixes`); where one was cached is preferred for five
        minutes. `headroom`: pool to the free share of its quota, 0 to 1. `takes`: whether
        a model takes the request's shape, where there is anything to ask.
        Raises Permanent with code unknown_model, tenant_denied, invalid_request, context_overflow or
        budget_exceeded when nothing can ever serve it; the message says what to change.
        """
        inferred = self._inferred(request)
        search = Search(
            select.wish_of(
                request,
                input_tokens=input_tokens,
                default_max_tokens=self._default_max_tokens,
                inferred=inferred.task if inferred else None,
            ),
            allowed=self._allowed_by(tenant),
            headroom=headroom,
            warm_pool=self._pools.warm_pool(prefixes, now=now) if prefixes else None,
            takes=takes,
        )
        if request.model is not None:
            reason, warnings = self._search_named(request, search)
        else:
            search, reason = self._search_unnamed(search)
            reason = f"{reason}; {inferred.reason}" if inferred else reason
            warnings = ()
        if not search.found:
            raise _nothing_serves(request, search.refusals)
        chosen = self._by_health(search, reason=reason, warnings=warnings, now=now)
        return chosen._replace(prefixes=prefixes) if prefixes else chosen

    def begin(self, candidate: Candidate, *, now: float, caller: Caller | None = None) -> Begun:
        """Call right before a model is called. Empty: its breaker is open, or its one probe is others'."""
        return self._pools.begin(candidate.route.pool, now=now, caller=caller)

    def abandon(self, candidate: Candidate, *, now: float) -> None:
        """A call that was begun was not made, or was broken off from here: it says nothing about the pool."""
        self._pools.observe(candidate.route.pool, JobCancelled("not made"), now=now)

    def observe(
        self,
        candidate: Candidate,
        outcome: Observation,
        *,
        now: float,
        cached: Sequence[bytes] = (),
        caller: Caller | None = None,
    ) -> None:
        """Learn from a call that has ended. `cached`: the prompt's prefixes, where it really was cached."""
        pool = candidate.route.pool
        self._pools.observe(pool, outcome, now=now, caller=caller)
        if isinstance(outcome, Success):
            self._shelf.learn(pool, self._pools.speed(pool))
            if cached:
                self._pools.warm(cached, pool, now=now)

    def decide(
        self,
        error: SidecarError,
        *,
        candidate: Candidate,
        tried: Sequence[Failure],
        selection: Selection,
        text_streamed: bool,
        request: JobRequest,
        now: float,
        deadline: float | None = None,
        jitter: float | None = None,
        can_hold: bool = False,
        caller: Caller | None = None,
        place: int = 0,
    ) -> Decision:
        """What follows the failure of `candidate`, after `observe` was told of it. `can_hold`: it can be held.

        `tried`: this job's earlier failures, in order. `deadline`: end of the job's time, seconds since 1970.
        `place`: how many characters of the answer had come. `jitter`: 0 to 1, a random one by default. See
        `fallback` and `docs/models.md`.
        """
        return fallback.decide(
            (*tried, Failure(candidate, error, place=place)),
            (*selection.candidates, *selection.reserve),
            now=now,
            deadline=deadline,
            text_streamed=text_streamed,
            on_interrupt=request.on_interrupt,
            retry_at=partial(self._pools.retry_at, now=now, caller=caller),
            jitter=random.random() if jitter is None else jitter,  # noqa: S311 (spreads delays, guards nothing)
            can_hold=can_hold,
        )

    def instead(
        self,
        selection: Selection,
        *,
        tried: Sequence[Failure],
        now: float,
        deadline: float | None = None,
        jitter: float | None = None,
        can_hold: bool = False,
        caller: Caller | None = None,
    ) -> Next | Wait | Held | Final:
        """Whom to call where `begin` said no: another candidate, or after a pause the first to recover."""
        return fallback.instead(
            (*selection.candidates, *selection.reserve),
            tried,
            now=now,
            deadline=deadline,
            retry_at=partial(self._pools.retry_at, now=now, caller=caller),
            jitter=random.random() if jitter is None else jitter,  # noqa: S311 (spreads delays, guards nothing)
            can_hold=can_hold,
        )

    def openings(
        self,
        selection: Selection,
        *,
        tried: Sequence[Failure],
        first: Opening,
        now: float,
        stays: bool = False,
        jitter: float | None = None,
        caller: Caller | None = None,
    ) -> list[Opening]:
        """Who may answer, and from when on, after a decision that named `first`; see `fallback.openings`."""
        return fallback.openings(
            (*selection.candidates, *selection.reserve),
            tried,
            first=first,
            stays=stays,
            now=now,
            retry_at=partial(self._pools.retry_at, now=now, caller=caller),
            jitter=random.random() if jitter is None else jitter,  # noqa: S311 (spreads delays, guards nothing)
        )

    def models(self, tenant: TenantPolicy, *, now: float) -> tuple[ModelInfo, ...]:
        """The catalogue as this tenant may use it, by alias."""
        allowed = self._allowed_by(tenant)
        return tuple(self._info(profile, allowed, now) for profile in self._catalogue.profiles)

    def health(self, now: float) -> dict[str, Phase]:
        """Pool to `closed`, `half_open`, `open` or `denied`, of every pool that was ever called."""
        return self._pools.phases(now)

    def outage(self, now: float, *, is_awaited: bool) -> str | None:
        """Which pools cannot be called, and why: while jobs wait for a model (`is_awaited`), or when all are shut.

        None else: what is shut beside others that work is passed over by the next jobs.
        """
        phases = self._pools.phases(now)
        shut = [pool for pool, phase in phases.items() if phase in ("open", "half_open")]
        # One job's failures open no breaker; while it waits, they are what there is to tell.
        shut = shut or ([pool for pool in phases if self._pools.is_suspect(pool)] if is_awaited else [])
        if not shut or not (is_awaited or (len(shut) == len(phases) and "open" in phases.values())):
            return None
        more = f" and {len(shut) - 1} more" if len(shut) > 1 else ""
        return f"{shut[0]}{more} cannot be called now: {self._pools.reason(shut[0])}"

    def retry_at(self, pool: str, *, now: float) -> float:
        """When a pool's breaker lets a call through (seconds since 1970); `now` where it does."""
        return self._pools.retry_at(pool, now)

    def limits(self, pool: str) -> QuotaLimits:
        """The quota of a pool (`Route.pool`), as configured; all unknown for a pool of no known model."""
        candidate = self._candidate_on(pool)
        return QuotaLimits() if candidate is None else candidate.route.limits

    def most_usd(self, pool: str, input_tokens: int, max_tokens: int) -> float | None:
        """The most a call on a pool (`Route.pool`) can cost, in US dollars; None where no price is known."""
        candidate = self._candidate_on(pool)
        if candidate is None:
            return None
        return cost.upper_bound_usd(candidate, input_tokens=input_tokens, max_tokens=max_tokens)

    def price_on(self, pool: str, usage: Usage) -> float | None:
        """US dollars of a call on a pool, at plain prices: for figures. None where no price is known.

        `pool` may be the one that tenants see (`Candidate.public_pool`): a job's events know no other.
        """
        candidate = self._candidate_on(pool)
        return None if candidate is None else cost.cost_usd(candidate, usage)

    def _candidate_on(self, pool: str) -> Candidate | None:
        """The model and route of a pool, by its own name or the one that tenants see; looked for once."""
        if pool in self._by_pool:
            return self._by_pool[pool]
        profile = self.profile(pool.rpartition("@")[0])
        ways = [Candidate(profile=profile, route=route) for route in profile.routes] if profile else []
        found = next((way for way in ways if pool in (way.route.pool, way.public_pool)), None)
        if len(self._by_pool) < MAX_NAMES:
            self._by_pool[pool] = found
        return found

    def profile(self, name: str) -> ModelProfile | None:
        """The model of an alias, Bedrock id, profile or ARN; None when unknown."""
        found = self._catalogue.resolve(name)
        return found.profile if found else None

    def _inferred(self, request: JobRequest) -> Inferred | None:
        """The task that the request does not name; None where it names one or a model, or inference is off."""
        if request.model is not None or request.task is not None or not self._selection.infer:
            return None
        return infer(request, up_to=self._selection.infer_up_to)

    def _search_unnamed(self, search: Search) -> tuple[Search, str]:
        """By kind and for the whole answer; where that leaves nobody for a short one, and then of any kind."""
        reason = self._search_for_money(search)
        if search.found or not any(r.stage == "kind" for r in search.refusals):
            return search, reason
        wider = search.anew(select.of_any_kind(search.wish))
        return wider, f"{self._search_for_money(wider)}; none that can serve is declared for this kind"

    def _search_for_money(self, search: Search) -> str:
        reason = self._search_best(search)
        if search.found or search.wish.budget_usd is None:
            return reason
        search.begin_again(select.content_with_less(search.wish))
        return self._search_best(search) + "; the budget may end the answer early"

    def _search_best(self, search: Search) -> str:
        quality = search.wish.quality
        search.add_best(
            self._shelf,
            max_models=MAX_CANDIDATES,
            max_candidates=MAX_CANDIDATES,
            quality=quality,
            most_dearer=MAX_STAND_IN_PRICE,
        )
        return f"best score for kind {search.wish.kind}, quality {quality}"

    def _search_named(self, request: JobRequest, search: Search) -> tuple[str, tuple[str, ...]]:
        warnings: list[str] = []
        resolved: ResolvedName | None = None
        for name in request.models:
            resolved = self._add_named(name, search)
            warnings.extend(resolved.warnings if resolved else ())
        if not isinstance(request.model, str) or resolved is None:
            return "named by the request", tuple(warnings)
        profile = resolved.profile
        if profile.fallback is not None:
            for alias in profile.fallback:
                self._add_named(alias, search)
        elif search.found and not resolved.is_exact:
            search.add_best(
                self._shelf,
                max_models=MAX_STAND_INS,
                max_candidates=MAX_CANDIDATES,
                quality=request.task.quality if request.task else profile.quality,
                most_dearer=MAX_STAND_IN_PRICE,
            )
        return "named by the request", tuple(warnings)

    def _add_named(self, name: str, search: Search) -> ResolvedName | None:
        resolved = self._catalogue.resolve(name)
        if resolved is None:
            search.refuse("unknown", name, self._unknown(name))
            return None
        entries = self._entries_of(name, resolved.profile)
        if not entries:
            search.refuse("region", name, no_region(self._bedrock.regions))
        search.add_named(entries)
        return resolved

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name, self._catalogue.names, n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        return f"not in the catalogue (name it in [models] to use it){hint}"

    def _by_health(self, search: Search, *, reason: str, warnings: tuple[str, ...], now: float) -> Selection:
        rejected = [r.rejected for r in search.refusals]
        usable: list[Entry] = search.found[:MAX_CANDIDATES]
        reserve: list[Entry] = []
        if self._pools.troubled:
            reserve = [e for e in usable if self._pools.phase(e.pool, now) not in _CALLABLE]
            usable = [e for e in usable if e not in reserve]
        wait_s = 0.0
        if not usable:
            usable, reserve = sorted(reserve, key=lambda e: self._pools.retry_at(e.pool, now)), []
            wait_s = self._pools.retry_at(usable[0].pool, now) - now
        for e in reserve:
            why = f"unhealthy: {self._pools.reason(e.pool)}"
            rejected.append(Rejected(model=e.candidate.public_pool, reason=why))
        if usable[0].pool == search.warm_pool:
            reason += "; its prompt cache is warm"
        return Selection(
            candidates=tuple([e.candidate for e in usable]),
            rejected=tuple(rejected),
            reason=reason,
            wait_s=wait_s,
            warnings=warnings,
            reserve=tuple([e.candidate for e in reserve]) if reserve else (),
        )

    def _entries_of(self, name: str, profile: ModelProfile) -> tuple[Entry, ...]:
        if name not in self._entries:
            if len(self._entries) >= MAX_NAMES:
                self._entries.clear()
            self._entries[name] = self._make_entries(profile)
        return self._entries[name]

    def _make_entries(self, profile: ModelProfile) -> tuple[Entry, ...]:
        also = self._catalogue.also_of(profile.alias)
        made = []
        for route in profile.routes:
            names = frozenset({profile.alias, profile.model_id, route.invoke_id, *also})
            entry = Entry(profile, Candidate(profile=profile, route=route), names)
            entry.speed_score = speed_score(self._pools.speed(entry.pool))
            made.append(entry)
        return tuple(made)

    def _allowed_by(self, tenant: TenantPolicy) -> frozenset[str] | None:
        if tenant.models is None:
            return None
        if tenant.models not in self._allowed:
            self._allowed[tenant.models] = frozenset(tenant.models)
        return self._allowed[tenant.models]

    def _info(self, profile: ModelProfile, allowed: frozenset[str] | None, now: float) -> ModelInfo:
        entries = self._entries_of(profile.alias, profile)
        why = why_unusable(
            profile,
            names=entries[0].names if entries else (),
            allowed=allowed,
            regions=self._bedrock.regions,
        )
        return model_info(profile, phases=[self._pools.phase(e.pool, now) for e in entries], unusable=why)


_CALLABLE = ("closed", "half_open")


def _nothing_serves(request: JobRequest, refusals: Sequence[Refusal]) -> Permanent:
    """The error of the candidate that came furthest, with everybody's reasons."""
    if not refusals:
        return Permanent("no model is configured for automatic choice: name one", code="unknown_model")
    furthest = max(refusals, key=lambda r: select.STAGES.index(r.stage))
    lead = "none of the named models" if request.models else "no model"
    shown = "; ".join(f"{r.model}: {r.reason}" for r in refusals[:8])
    details: dict[str, Any] = {"rejected": [{"model": r.model, "reason": r.reason} for r in refusals]}
    if furthest.path:
        details["path"] = furthest.path
    return Permanent(
        f"{lead} can serve this request: {shown}", code=_CODE_OF_STAGE[furthest.stage], details=details
    )
