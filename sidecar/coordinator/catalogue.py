"""Which models there are: the shipped data file, the user's `[models]` over it, names resolved to profiles.

The data file is written by `scripts/catalogue.py`. Neighbours: `ids.py` takes names apart, `select.py` chooses
among what is here.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from sidecar.config.settings import ModelPolicy, Policy
from sidecar.coordinator.ids import ModelRef, parse, profile_serves
from sidecar.coordinator.overrides import assumptions, generic_profile, with_policy
from sidecar.coordinator.vendors import with_vendor
from sidecar.errors import StartupError
from sidecar.models.base import Open
from sidecar.models.profile import (
    Capability,
    Family,
    Lifecycle,
    ModelProfile,
    Price,
    QuotaLimits,
    Route,
    Traits,
    public_id,
)

DATA_FILE = Path(__file__).with_name("data") / "catalogue.json"
_MAX_RESOLVED = 4096


class InferenceRow(Open, frozen=True, kw_only=True):
    """One way to call a model: a cross-region profile's prefix (empty: on demand, the bare id) and from where."""

    profile: str
    regions: tuple[str, ...]
    price_factor: float = 1.0


class ModelRow(Open, frozen=True, kw_only=True):
    """A model as the data file has it: a `ModelProfile` before regions are chosen."""

    alias: str
    model_id: str
    family: Family
    name: str
    traits: Traits
    inference: tuple[InferenceRow, ...]
    also: tuple[str, ...] = ()
    quality: Literal["fast", "balanced", "best"] = "balanced"
    kinds: tuple[str, ...] = ()
    quality_by_kind: dict[str, Literal["fast", "balanced", "best"]] = msgspec.field(default_factory=dict)
    context_tokens: int = 32_000
    max_output_tokens: int = 4_096
    capabilities: tuple[Capability, ...] = ()
    service_tiers: tuple[str, ...] = ("default",)
    lifecycle: Lifecycle = "active"
    prices: tuple[Price, ...] = ()
    burndown: float = 1.0
    sources: dict[str, str] = msgspec.field(default_factory=dict)

    def inference_by(self, profile: str) -> InferenceRow | None:
        return next((row for row in self.inference if row.profile == profile), None)


class CatalogueFile(Open, frozen=True, kw_only=True):
    sources: dict[str, str]
    models: tuple[ModelRow, ...]


class ResolvedName(NamedTuple):
    """What a name stands for. `is_exact`: a Bedrock id or ARN rather than an alias, so nothing may stand in for
    it unasked. `warnings` are for the job's result."""

    profile: ModelProfile
    is_exact: bool = False
    warnings: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def shipped_rows() -> tuple[ModelRow, ...]:
    """The rows of the data file that comes with the package. Read once."""
    return msgspec.json.decode(DATA_FILE.read_bytes(), type=CatalogueFile).models


class Catalogue:
    """The models of one configuration. Immutable once built; a reload builds another.

    Raises StartupError when `[models]` names something that cannot be called.
    """

    def __init__(self, *, policy: Policy, regions: Sequence[str], rows: Iterable[ModelRow] | None = None) -> None:
        self._regions = tuple(dict.fromkeys(regions))
        self._rows = {row.model_id: row for row in (shipped_rows() if rows is None else rows)}
        self._by_alias: dict[str, ModelProfile] = {}
        self._by_id: dict[str, ModelProfile] = {}
        self._resolved: dict[str, ResolvedName | None] = {}
        self._warnings: list[str] = []
        self._also: dict[str, str] = {}
        for row in self._rows.values():
            self._add(profile_of(row, self._regions))
            self._also |= dict.fromkeys(row.also, row.alias)
        for alias, model_policy in policy.models.items():
            self._add(self._configured(alias, model_policy), exact_id=model_policy.id)
        self.profiles: tuple[ModelProfile, ...] = tuple(self._by_alias[a] for a in sorted(self._by_alias))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the configuration made us guess."""
        return tuple(self._warnings)

    @property
    def names(self) -> tuple[str, ...]:
        """Every alias, for near matches."""
        return (*self._by_alias, *self._also)

    def also_of(self, alias: str) -> tuple[str, ...]:
        return tuple(name for name, target in self._also.items() if target == alias)

    def resolve(self, name: str) -> ResolvedName | None:
        """The model of an alias, a Bedrock id, an inference profile or an ARN; None when it is not known."""
        if name not in self._resolved:
            if len(self._resolved) >= _MAX_RESOLVED:
                self._resolved.clear()
            self._resolved[name] = self._resolve(name)
        return self._resolved[name]

    def _resolve(self, name: str) -> ResolvedName | None:
        alias = name if name in self._by_alias else self._also.get(name, name)
        if alias in self._by_alias:
            return ResolvedName(self._by_alias[alias])
        if name in self._by_id:
            return ResolvedName(self._by_id[name], is_exact=True)
        ref = parse(name)
        if ref is None or ref.base is None or ref.base not in self._by_id:
            return None
        base = self._by_id[ref.base]
        if not ref.profile and not ref.is_arn:
            return ResolvedName(base, is_exact=True)
        routes, warnings = self._exact_routes(ref, self._rows.get(ref.base), base)
        return ResolvedName(msgspec.structs.replace(base, routes=routes), is_exact=True, warnings=warnings)

    def _exact_routes(
        self, ref: ModelRef, row: ModelRow | None, base: ModelProfile
    ) -> tuple[tuple[Route, ...], tuple[str, ...]]:
        """Routes by exactly the id that was named, and a warning where the catalogue does not list them."""
        regions = [r for r in self._regions if ref.region in (None, r)]
        listed = row.inference_by(ref.profile) if row else None
        usable = [r for r in regions if listed and r in listed.regions]
        warnings: tuple[str, ...] = ()
        if not usable:
            usable = [r for r in regions if profile_serves(ref.profile, r)]
            if usable:
                shown = public_id(ref.invoke_id, base.alias)
                warnings = (f"{shown} is not listed for {', '.join(usable)}: called as you named it",)
        limits = base.routes[0].limits if base.routes else QuotaLimits()
        factor = _price_factor(row, ref.profile)
        routes = tuple(
            Route(region=region, invoke_id=ref.invoke_id, limits=limits, price_factor=factor) for region in usable
        )
        return routes, warnings

    def _configured(self, alias: str, policy: ModelPolicy) -> ModelProfile:
        base = self._base_of(alias, policy)
        if base is not None:
            profile = base if policy.id is None else msgspec.structs.replace(base, alias=alias)
            return with_policy(self._rerouted(alias, profile, policy), policy, alias=alias)
        if policy.id is None:
            raise StartupError(f"models.{alias}: the catalogue has no model of this name; give its Bedrock 'id'")
        ref = parse(policy.id)
        if ref is None:
            raise StartupError(f"models.{alias}.id: {policy.id!r} is not a Bedrock model id, profile or ARN")
        profile = generic_profile(alias, ref, policy, regions=self._regions_for(policy, ref))
        self._warnings.append(
            f"models.{alias}: {policy.id} is not in the catalogue. Assumed: {assumptions(profile, policy)}. "
            "Say more under the names given here, or name the model that it is like as base"
        )
        return profile

    def _base_of(self, alias: str, policy: ModelPolicy) -> ModelProfile | None:
        if policy.base is not None:
            found = self.resolve(policy.base)
            if found is None:
                raise StartupError(f"models.{alias}.base: {policy.base!r} is not in the catalogue")
            return found.profile
        if policy.id is None:
            known = self._resolve(alias)
            return known.profile if known else None
        found = self.resolve(policy.id)
        return found.profile if found else None

    def _rerouted(self, alias: str, profile: ModelProfile, policy: ModelPolicy) -> ModelProfile:
        """`profile` by the id and in the regions that the user's entry names."""
        if policy.id is None and policy.regions is None:
            return profile
        ref = parse(policy.id or profile.model_id)
        if ref is None:
            raise StartupError(f"models.{alias}.id: {policy.id!r} is not a Bedrock model id, profile or ARN")
        regions = self._regions_for(policy, ref)
        row = self._rows.get(profile.model_id)
        if not ref.profile and not ref.is_arn:
            # What the base lends is price and capability, never its routes: the id given is the one called.
            own = self._rows.get(ref.base or "")
            if own is not None:
                return msgspec.structs.replace(profile, routes=routes_of(own, regions))
        factor = _price_factor(row, ref.profile)
        routes = tuple(Route(region=r, invoke_id=ref.invoke_id, price_factor=factor) for r in regions)
        return msgspec.structs.replace(profile, routes=_with_burndown(routes, row))

    def _regions_for(self, policy: ModelPolicy, ref: ModelRef) -> tuple[str, ...]:
        if policy.regions is not None:
            return policy.regions
        if ref.region is not None:
            return (ref.region,)
        return tuple(r for r in self._regions if profile_serves(ref.profile, r))

    def _add(self, profile: ModelProfile, *, exact_id: str | None = None) -> None:
        self._by_alias[profile.alias] = profile
        if exact_id is None:
            self._by_id[profile.model_id] = profile
        else:
            self._by_id[exact_id] = profile
        self._resolved.clear()


def profile_of(row: ModelRow, regions: Sequence[str]) -> ModelProfile:
    """A row of the data file as it can be called from `regions`, in their order."""
    return ModelProfile(
        alias=row.alias,
        model_id=row.model_id,
        family=row.family,
        name=row.name,
        quality=row.quality,
        kinds=row.kinds,
        quality_by_kind=row.quality_by_kind,
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        capabilities=row.capabilities,
        service_tiers=row.service_tiers,
        lifecycle=row.lifecycle,
        prices=row.prices,
        traits=with_vendor(row.traits, row.model_id, row.family),
        routes=routes_of(row, regions),
        sources=row.sources,
    )


def routes_of(row: ModelRow, regions: Sequence[str]) -> tuple[Route, ...]:
    """One route a region: on demand where the region has it, else its geographic profile, else the global one.

    In that order because data then travels least; whoever wants the cheaper global profile names it.
    """
    found = (_route(row, region) for region in regions)
    return _with_burndown(tuple(r for r in found if r is not None), row)


def _route(row: ModelRow, region: str) -> Route | None:
    here = [way for way in row.inference if region in way.regions]
    if not here:
        return None
    way = min(here, key=lambda w: (w.profile != "", w.profile == "global", w.profile))
    invoke_id = f"{way.profile}.{row.model_id}" if way.profile else row.model_id
    return Route(region=region, invoke_id=invoke_id, price_factor=way.price_factor)


def _with_burndown(routes: tuple[Route, ...], row: ModelRow | None) -> tuple[Route, ...]:
    if row is None:
        return routes
    limits = QuotaLimits(burndown=row.burndown)
    return tuple(msgspec.structs.replace(route, limits=limits) for route in routes)


def _price_factor(row: ModelRow | None, profile: str) -> float:
    if row is None:
        return 1.0
    way = row.inference_by(profile)
    if way is not None:
        return way.price_factor
    return max((w.price_factor for w in row.inference), default=1.0)
