"""What Bedrock is known to have accepted: recorded requests, made neutral and encoded again, come out the same."""

from base64 import b64decode
from typing import Any

import msgspec
import pytest

from sidecar.adapters.bedrock.families import encode_call
from sidecar.models.call import ModelCall, ToolSpec
from sidecar.models.content import (
    CachePointBlock,
    DocumentBlock,
    ImageBlock,
    JsonBlock,
    Message,
    ReasoningBlock,
    Source,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.profile import Family, Traits
from sidecar.models.request import Guardrail, Params, ToolChoice
from tests.support.bedrock_calls import CLAUDE, NOVA, call, profile
from tests.support.bedrock_recordings import Recording, load_recordings, recordings_or_skip


class NotNeutral(Exception):
    """The recorded request holds what the neutral form does not have."""


def family_of(recording: Recording) -> tuple[Family, Traits]:
    if "anthropic.claude" in recording.model_id:
        return "claude", msgspec.structs.replace(CLAUDE, cache_points=("system", "messages"), prefill=True)
    if "amazon.nova" in recording.model_id:
        return "nova", msgspec.structs.replace(NOVA, replays_reasoning=True)
    return "other", Traits(replays_reasoning=True, top_k=True)


def source(raw: dict[str, Any]) -> Source:
    if "bytes" not in raw:
        raise NotNeutral("a source that is not inline")
    return Source(data=b64decode(raw["bytes"]))


def block(raw: dict[str, Any]) -> Any:
    kind, value = next(iter(raw.items()))
    if kind == "text":
        return TextBlock(text=value)
    if kind == "cachePoint":
        return CachePointBlock()
    if kind == "image":
        return ImageBlock(source=source(value["source"]), format=value["format"])
    if kind == "document":
        return DocumentBlock(source=source(value["source"]), format=value["format"], name=value["name"])
    if kind == "json":
        return JsonBlock(value=value)
    if kind == "toolUse" and "type" not in value:
        return ToolUseBlock(id=value["toolUseId"], name=value["name"], input=value["input"])
    if kind == "toolResult" and "type" not in value:
        content = tuple(block(part) for part in value["content"])
        failed = value.get("status") == "error"
        return ToolResultBlock(tool_use_id=value["toolUseId"], content=content, is_error=failed)
    if kind == "reasoningContent":
        thought = value.get("reasoningText", {})
        if "redactedContent" in value:
            return ReasoningBlock(redacted=b64decode(value["redactedContent"]))
        return ReasoningBlock(text=thought["text"], signature=thought.get("signature"))
    raise NotNeutral(kind)


def choice(raw: dict[str, Any]) -> Any:
    if "tool" in raw:
        return ToolChoice(name=raw["tool"]["name"])
    return next(iter(raw), "auto")


def neutral(recording: Recording) -> ModelCall:
    request = recording.request
    family, traits = family_of(recording)
    system = [part["text"] for part in request["system"] if "text" in part]
    if len(system) > 1 or len(system) != len(request["system"]):
        raise NotNeutral("a system prompt in parts")
    inference = request.get("inferenceConfig", {})
    config = request.get("toolConfig", {})
    if any(list(tool) != ["toolSpec"] or "strict" in tool["toolSpec"] for tool in config.get("tools", [])):
        raise NotNeutral("tools that are none of ours")
    specs = [tool["toolSpec"] for tool in config.get("tools", [])]
    extra = request.get("additionalModelRequestFields", {})
    top_k = extra.get("top_k", extra.get("inferenceConfig", {}).get("topK"))
    if set(extra) - {"top_k", "inferenceConfig"} or "performanceConfig" in request or "outputConfig" in request:
        raise NotNeutral("fields of one model")
    guardrail = request.get("guardrailConfig")
    return call(
        *(Message(role=m["role"], content=tuple(block(raw) for raw in m["content"])) for m in request["messages"]),
        of=profile(model_id=recording.model_id, family=family, traits=traits),
        system=system[0] if system else None,
        params=Params(
            max_tokens=inference.get("maxTokens"),
            temperature=inference.get("temperature"),
            top_p=inference.get("topP"),
            top_k=top_k,
            stop=tuple(inference.get("stopSequences", ())),
        ),
        tools=tuple(
            ToolSpec(
                name=spec["name"],
                description=spec.get("description", ""),
                input_schema=spec["inputSchema"]["json"],
            )
            for spec in specs
        ),
        tool_choice=choice(config.get("toolChoice", {})),
        guardrail=Guardrail(id=guardrail["guardrailIdentifier"], version=guardrail["guardrailVersion"])
        if guardrail
        else None,
        service_tier=request.get("serviceTier", {}).get("type", "auto"),
        cache="none",
    )


def comparable(request: dict[str, Any], *, is_nova: bool = False) -> dict[str, Any]:
    """A request without what means the same: empty parts, the default choice, the order of tools; for Nova what
    its guide wants left out at the root of a tool's schema.
    """
    out = {key: value for key, value in request.items() if value}
    if "toolConfig" in out:
        tools = sorted(out["toolConfig"]["tools"], key=lambda tool: tool["toolSpec"]["name"])
        out["toolConfig"] = {**out["toolConfig"], "tools": tools}
        for tool in tools if is_nova else ():
            schema = dict(tool["toolSpec"]["inputSchema"]["json"])
            for name in ("additionalProperties", "title"):
                schema.pop(name, None)
            tool["toolSpec"] = {**tool["toolSpec"], "inputSchema": {"json": schema}}
        if out["toolConfig"].get("toolChoice") == {"auto": {}}:
            del out["toolConfig"]["toolChoice"]
    return out


# Where the request that comes out is another one on purpose, and what it shows.
OTHERWISE = {
    "document inside a result": lambda request: any(
        "document" in part
        for message in request["messages"]
        for raw in message["content"]
        for part in raw.get("toolResult", {}).get("content", [])
    ),
    "document beside a result": lambda request: any(
        {"toolResult", "document"} <= {kind for raw in message["content"] for kind in raw}
        for message in request["messages"]
    ),
    "result without a status": lambda request: any(
        "toolResult" in raw and "status" not in raw["toolResult"]
        for message in request["messages"]
        for raw in message["content"]
    ),
    "blank text": lambda request: any(
        "text" in raw and not raw["text"].strip() for message in request["messages"] for raw in message["content"]
    ),
    "tool name with a hyphen or a history without its tools": lambda request: (
        "toolConfig" not in request and "toolUse" in str(request["messages"])
    ),
}


def encoded_again(recording: Recording) -> dict[str, Any]:
    encoded = encode_call(neutral(recording), is_stream=False)
    again: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(encoded.params))
    return again


def is_covered(recording: Recording) -> bool:
    if recording.status != 200 or any(differs(recording.request) for differs in OTHERWISE.values()):
        return False
    try:
        neutral(recording)
    except NotNeutral:
        return False
    return True


@pytest.mark.parametrize("recording", recordings_or_skip(is_covered))
def test_recorded_request_comes_out_as_it_was(recording: Recording) -> None:
    is_nova = "nova" in recording.model_id
    assert comparable(encoded_again(recording), is_nova=is_nova) == comparable(recording.request, is_nova=is_nova)


def test_most_recorded_requests_are_covered() -> None:
    recordings = load_recordings()
    if not recordings:
        pytest.skip("no recordings beside the repository (../shared/recordings)")
    assert sum(is_covered(recording) for recording in recordings) >= len(recordings) * 0.6
