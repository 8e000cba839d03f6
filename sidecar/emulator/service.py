"""The way of a call through the emulator: identify, validate, script, quota, answer; then settle and record."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sidecar.emulator import call as calls
from sidecar.emulator import events, guardrail, plan
from sidecar.emulator.answer import Answer
from sidecar.emulator.behaviour import EXCEPTION_FAULTS, Behaviour, Fault
from sidecar.emulator.cache import CacheUse, PromptCache
from sidecar.emulator.exceptions import INVALID_MODEL, Refusal
from sidecar.emulator.journal import CallRecord, Journal
from sidecar.emulator.quirks import check_quirks
from sidecar.emulator.quota import QuotaRule, Quotas, Reservation
from sidecar.emulator.scenario import Scenario, Script
from sidecar.emulator.shapes import check_shapes
from sidecar.emulator.tokens import count_input
from sidecar.emulator.traits import ModelTraits, strip_profile, traits_of
from sidecar.emulator.validation import check_body

# Statuses of calls whose model had begun.
_BEGUN = frozenset({408, 424})
UNKNOWN_MODEL_MARK = "does-not-exist"
_MODEL_ID = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+){0,3}(?::[a-z0-9-]+){0,2}")
_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Prepared:
    """A call that may be answered. `close` it with what was sent, however it ends."""

    record: CallRecord
    behaviour: Behaviour
    faults: tuple[Fault, ...]
    is_stream: bool
    steps: list[plan.Step] = field(default_factory=list)
    body: bytes = b""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reservation: Reservation | None = None


class BedrockService:
    """Everything between HTTP and the answer. Owns the scenario, quotas, prompt cache and journal."""

    def __init__(self, scenario: Scenario, *, keep_calls: int, profiles: Mapping[str, str] | None = None) -> None:
        self.journal = Journal(keep_calls)
        self.script = Script(scenario)
        self.quotas = Quotas(scenario.quota, clock=time.monotonic)
        self.cache = PromptCache(time.monotonic)
        self._own_profiles = dict(profiles or {})
        self.profiles = {**self._own_profiles, **scenario.profiles}

    def load(self, scenario: Scenario) -> None:
        """Start over with another scenario; the journal stays."""
        self.script.load(scenario)
        self.quotas.load(scenario.quota)
        self.cache.reset()
        self.profiles = {**self._own_profiles, **scenario.profiles}

    def set_quota(self, rules: Sequence[QuotaRule]) -> None:
        """Replace the quotas; all pools start full."""
        self.quotas.load(rules)

    def reset(self) -> None:
        """Forget calls, counters, cached prompts and what the script has counted; the scenario stays."""
        self.journal.reset()
        self.cache.reset()
        self.script.load(self.script.scenario)

    def make_jitter(self, behaviour: Behaviour) -> Callable[[], float]:
        """A source of factors around 1 by which pauses vary."""
        if not behaviour.jitter:
            return lambda: 1.0
        low, high = 1.0 - behaviour.jitter, 1.0 + behaviour.jitter
        return lambda: max(0.0, self.script.random.uniform(low, high))

    def resolve(self, model_id: str) -> ModelTraits:
        """Traits of a model id, profile id or ARN. Raises Refusal where nobody knows it."""
        base = strip_profile(model_id)
        named = self.profiles.get(model_id) or self.profiles.get(base)
        traits = traits_of(named or model_id)
        known = self.script.scenario.models
        is_known = traits.base_id in known or model_id in known or not known
        is_shaped = model_id.startswith("arn:") or _MODEL_ID.fullmatch(model_id) is not None
        if UNKNOWN_MODEL_MARK in model_id or not is_shaped or not (named or is_known):
            raise Refusal("validation", INVALID_MODEL)
        return traits

    def prepare(self, record: CallRecord, *, is_stream: bool) -> Prepared:
        """Decide all about a call. Raises Refusal: nothing is held then. Else `close` must follow."""
        traits = self.resolve(record.model_id)
        body = decode_body(record.body)
        question = calls.read_question(body)
        record.tenant = question.tenant
        record.input_tokens = count_input(body)
        check_body(body)
        check_shapes(body, traits)
        check_quirks(body, traits, input_tokens=record.input_tokens)
        now = calls.make_circumstances(
            question, model_id=record.model_id, region=record.region, operation=record.operation
        )
        behaviour = self.script.decide(now, directives=question.steps, prompt=question.user_text)
        for fault in behaviour.faults:
            if fault.kind in EXCEPTION_FAULTS and plan.is_before_headers(fault, is_stream=is_stream):
                raise plan.refusal_of(fault)
        max_tokens = calls.read_max_tokens(body, traits)
        reservation = self.quotas.reserve(
            traits.base_id, record.region, tokens=record.input_tokens + max_tokens, tenant=record.tenant
        )
        prepared = Prepared(record, behaviour, behaviour.faults, is_stream, reservation=reservation)
        self._answer(prepared, body, question, traits)
        return prepared

    def close(self, prepared: Prepared, *, is_aborted: bool) -> None:
        """Settle and record. What an aborted stream had sent is what it used."""
        record = prepared.record
        used = record.sent_tokens if is_aborted and prepared.is_stream else prepared.output_tokens
        record.output_tokens = used
        record.charged_input_tokens, record.charged_output_tokens = record.input_tokens, used
        record.charged_cache_read_tokens = prepared.cache_read_tokens
        record.charged_cache_write_tokens = prepared.cache_write_tokens
        if prepared.reservation:
            self.quotas.settle(
                prepared.reservation,
                input_tokens=record.input_tokens,
                cache_write_tokens=prepared.cache_write_tokens,
                output_tokens=used,
            )
        self.journal.close(record, is_aborted=is_aborted)

    def refuse(self, record: CallRecord, refusal: Refusal) -> None:
        """Record a call that ended with an error status."""
        record.status = refusal.kind.status
        record.error_type = refusal.kind.error_type
        if refusal.kind.status in _BEGUN:
            record.charged_input_tokens = record.input_tokens
        self.journal.close(record, is_aborted=False)

    def count_tokens(self, model_id: str, body: bytes) -> int:
        """CountTokens: input tokens of the Converse body inside."""
        self.resolve(model_id)
        request = decode_body(body).get("input") or {}
        if "converse" in request:
            return count_input(request["converse"])
        if "invokeModel" in request:
            return max(1, len(str(request["invokeModel"].get("body", ""))) // 4)
        raise Refusal("validation", "The input field must contain one of: converse, invokeModel.")

    def _answer(
        self,
        prepared: Prepared,
        body: Mapping[str, Any],
        question: calls.Question,
        traits: ModelTraits,
    ) -> None:
        record, behaviour = prepared.record, prepared.behaviour
        answer = calls.make_answer(record.body, body, question, behaviour, traits=traits)
        cache = self._use_cache(body, record, traits, behaviour)
        fresh = record.input_tokens - (cache.read_tokens + cache.write_tokens if cache else 0)
        record.input_tokens = max(fresh, 0)
        record.stop_reason = answer.stop_reason
        prepared.output_tokens = answer.output_tokens
        prepared.cache_read_tokens = cache.read_tokens if cache else 0
        prepared.cache_write_tokens = cache.write_tokens if cache else 0
        usage = calls.make_usage(record.input_tokens, answer.output_tokens, cache)
        latency_ms = calls.expect_latency_ms(behaviour, answer.output_tokens)
        extra = guardrail.make_extra_fields(body, answer, region=record.region, mode=behaviour.guardrail)
        self._plan(prepared, answer, usage, latency_ms, extra)

    def _plan(
        self, prepared: Prepared, answer: Answer, usage: dict[str, Any], latency_ms: int, extra: dict[str, Any]
    ) -> None:
        faults = [f for f in prepared.faults if not plan.is_before_headers(f, is_stream=prepared.is_stream)]
        replaced = plan.find_body_fault(faults)
        if replaced is not None:
            prepared.body = replaced
            prepared.steps = [plan.Send(replaced), plan.EOF]
        elif prepared.is_stream:
            made = events.make_events(answer, chunk_tokens=prepared.behaviour.chunk_tokens)
            made.append(events.make_metadata(usage=usage, latency_ms=latency_ms, extra=extra))
            steps = plan.plan_stream(made, faults)
            prepared.steps = steps if prepared.behaviour.tps > 0 else plan.merge_sends(steps)
        else:
            reply = events.make_reply(answer, usage=usage, latency_ms=latency_ms, extra=extra)
            prepared.body = _encode_json(plan.spoil_reply(reply, faults))
            prepared.steps = plan.plan_reply(prepared.body, faults)

    def _use_cache(
        self, body: Mapping[str, Any], record: CallRecord, traits: ModelTraits, behaviour: Behaviour
    ) -> CacheUse | None:
        if behaviour.cache_read is not None or behaviour.cache_write is not None:
            return CacheUse(behaviour.cache_read or 0, behaviour.cache_write or 0)
        if b'"cachePoint"' in record.body:
            return self.cache.look_up(body, model_id=traits.base_id, region=record.region)
        return CacheUse(0, 0) if traits.is_claude else None


def decode_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    try:
        decoded = _decode_json(raw)
    except msgspec.DecodeError as e:
        raise Refusal("validation", f"Could not parse the request body: {e}") from e
    if not isinstance(decoded, dict):
        raise Refusal("validation", "The request body must be a JSON object.")
    return decoded
