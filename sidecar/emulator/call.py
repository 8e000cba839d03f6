"""One Converse call, decided: from a decoded body to the answer, its usage and its place in quotas. No I/O."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from sidecar.emulator.answer import Answer, Prompt, compose
from sidecar.emulator.behaviour import Behaviour, Circumstances, Step
from sidecar.emulator.cache import CacheUse
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.grammar import GrammarError, parse_directives
from sidecar.emulator.traits import ModelTraits

UNNAMED_TENANT = ""
DEFAULT_REASONING_TOKENS = 16
TENANT_KEYS = ("tenant", "tenant_id", "tenantId")


@dataclass(frozen=True, slots=True)
class Question:
    """What stands in a body, as far as answering needs it."""

    user_text: str
    steps: Sequence[Step]
    turn: int
    tool_results: Sequence[Mapping[str, Any]]
    tenant: str


def read_question(body: Mapping[str, Any]) -> Question:
    """The user's last text, its directives, and the turn. Raises Refusal for a broken directive."""
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    text, turn = "", 1
    for message in reversed(messages):
        content = message.get("content") or ()
        if message.get("role") == "assistant":
            turn += any("toolUse" in block for block in content)
            continue
        texts = [block["text"] for block in content if "text" in block]
        if texts:
            text = texts[-1]
            break
    try:
        steps, plain = parse_directives(text) if "[[" in text else ((), text)
    except GrammarError as e:
        raise Refusal("validation", f"emulator directive: {e}") from e
    last = messages[-1].get("content") or () if messages else ()
    return Question(
        user_text=plain,
        steps=steps,
        turn=turn,
        tool_results=[block["toolResult"] for block in last if "toolResult" in block],
        tenant=read_tenant(body),
    )


def read_tenant(body: Mapping[str, Any]) -> str:
    """The tenant named in `requestMetadata`, or an empty name."""
    metadata = body.get("requestMetadata") or {}
    return next((str(metadata[key]) for key in TENANT_KEYS if key in metadata), UNNAMED_TENANT)


def read_max_tokens(body: Mapping[str, Any], traits: ModelTraits) -> int:
    """`maxTokens`, or the model's maximum where it is unset, which is also what the service reserves."""
    wanted = (body.get("inferenceConfig") or {}).get("maxTokens")
    return int(wanted) if wanted else traits.max_output_tokens


def make_answer(
    raw: bytes, body: Mapping[str, Any], question: Question, behaviour: Behaviour, *, traits: ModelTraits
) -> Answer:
    """Compose the answer; the digest of the body makes its tool ids."""
    if behaviour.reasoning is None and wants_reasoning(body):
        behaviour = replace(behaviour, reasoning=DEFAULT_REASONING_TOKENS)
    tool_config = body.get("toolConfig") or {}
    prompt = Prompt(
        text=question.user_text,
        digest=hashlib.blake2b(raw, digest_size=16).digest(),
        tool_results=question.tool_results,
        tools=[tool["toolSpec"] for tool in tool_config.get("tools") or () if "toolSpec" in tool],
        tool_choice=tool_config.get("toolChoice"),
        schema=_read_schema(body),
        stop_sequences=(body.get("inferenceConfig") or {}).get("stopSequences") or (),
        max_tokens=read_max_tokens(body, traits),
        thinks_in_text=traits.is_nova and traits.version < (2, 0),
        tool_type="tool_use" if traits.is_claude else None,
    )
    answer = compose(prompt, behaviour)
    if any(fault.kind == "duplicate_tool_ids" for fault in behaviour.faults):
        _share_tool_id(answer)
    return answer


def wants_reasoning(body: Mapping[str, Any]) -> bool:
    """Whether the request switches reasoning on, in Claude's words or in Nova's."""
    fields = body.get("additionalModelRequestFields") or {}
    asked = (fields.get(key) for key in ("thinking", "reasoning_config", "reasoningConfig"))
    return any(isinstance(a, Mapping) and a.get("type") in ("enabled", "adaptive") for a in asked)


def make_usage(input_tokens: int, output_tokens: int, cache: CacheUse | None) -> dict[str, Any]:
    """Usage as the service reports it; `input_tokens` are those outside the cache."""
    usage: dict[str, Any] = {"inputTokens": input_tokens, "outputTokens": output_tokens, "serverToolUsage": {}}
    total = input_tokens + output_tokens
    if cache is not None:
        total += cache.read_tokens + cache.write_tokens
        usage |= {
            "cacheReadInputTokenCount": cache.read_tokens,
            "cacheReadInputTokens": cache.read_tokens,
            "cacheWriteInputTokenCount": cache.write_tokens,
            "cacheWriteInputTokens": cache.write_tokens,
        }
        if cache.write_tokens:
            usage["cacheDetails"] = [{"inputTokens": cache.write_tokens, "ttl": cache.ttl}]
    usage["totalTokens"] = total
    return usage


def expect_latency_ms(behaviour: Behaviour, output_tokens: int) -> int:
    """The latency that the reply reports: the scripted one, so that equal requests give equal replies."""
    generation = output_tokens / behaviour.tps * 1000 if behaviour.tps > 0 else 0.0
    return max(1, round(behaviour.latency_ms + behaviour.ttft_ms + generation))


def make_circumstances(question: Question, *, model_id: str, region: str, operation: str) -> Circumstances:
    """What conditions are held against."""
    return Circumstances(
        model=model_id, region=region, tenant=question.tenant, operation=operation, turn=question.turn
    )


def _read_schema(body: Mapping[str, Any]) -> Any:
    text_format = (body.get("outputConfig") or {}).get("textFormat") or {}
    definition = (text_format.get("structure") or {}).get("jsonSchema")
    if definition is None:
        return None
    try:
        return msgspec.json.decode(definition["schema"])
    except (msgspec.DecodeError, KeyError, TypeError) as e:
        raise Refusal("validation", "The provided JSON schema in outputConfig is not valid JSON.") from e


def _share_tool_id(answer: Answer) -> None:
    tools = [block["toolUse"] for block in answer.blocks if "toolUse" in block]
    for tool in tools:
        tool["toolUseId"] = tools[0]["toolUseId"]
