"""Recorded Converse requests as requests of the bus protocol, and recorded answers as plain values."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from botocore.eventstream import EventStreamBuffer

from tests.support.bedrock_recordings import Recording

STOP_REASONS = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "guardrail",
    "content_filtered": "content_filtered",
    "model_context_window_exceeded": "context_overflow",
    "malformed_model_output": "malformed_output",
    "malformed_tool_use": "malformed_output",
}
_THINKING = re.compile(r"\s*<thinking>(.*?)</thinking>\s*", re.DOTALL)


class Translation:
    """`request` is the protocol's; `left_out` names what the protocol has no words for, each once."""

    def __init__(self, recording: Recording) -> None:
        self.left_out: set[str] = set()
        source = recording.request
        self.request: dict[str, Any] = {
            "model": recording.model_id,
            "stream": recording.is_stream,
            "messages": [self._message(message) for message in source["messages"]],
            "params": _params(source),
        }
        if source["messages"][0]["role"] == "assistant":
            self.left_out.add("assistant first")
            self.request["messages"].insert(0, {"role": "user", "content": "(left out)"})
        self._system(source.get("system", []))
        self._tools(source.get("toolConfig", {}))
        self._extras(source)
        self._reasoning(source.get("additionalModelRequestFields", {}))

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        blocks = [made for raw in message["content"] if (made := self._block(raw)) is not None]
        return {"role": message["role"], "content": blocks or "(left out)"}

    def _block(self, raw: dict[str, Any]) -> dict[str, Any] | None:
        kind, value = next(iter(raw.items()))
        if kind == "text":
            return {"type": "text", "text": value}
        if kind == "cachePoint":
            return {"type": "cache_point"}
        if kind == "json":
            return {"type": "json", "value": value}
        if kind in ("image", "document") and "bytes" in value["source"]:
            named = {"name": value["name"]} if kind == "document" else {}
            source = {"bytes": value["source"]["bytes"]}
            return {"type": kind, "format": value["format"], "source": source, **named}
        if kind == "toolUse" and value.get("type") != "server_tool_use":
            return {"type": "tool_use", "id": value["toolUseId"], "name": value["name"], "input": value["input"]}
        if kind == "toolResult" and "type" not in value:
            parts = [made for part in value["content"] if (made := self._block(part)) is not None]
            is_error = value.get("status") == "error"
            return {
                "type": "tool_result",
                "tool_use_id": value["toolUseId"],
                "content": parts or "(left out)",
                "is_error": is_error,
            }
        if kind == "reasoningContent":
            return _reasoning_block(value)
        where = (
            "s3Location" if "s3Location" in str(value) else value.get("type", "") if kind == "toolResult" else ""
        )
        self.left_out.add(f"{kind} {where}".strip())
        return None

    def _system(self, parts: list[dict[str, Any]]) -> None:
        texts = [part["text"] for part in parts if "text" in part]
        if texts:
            self.request["system"] = "\n\n".join(texts)
        if len(texts) > 1:
            self.left_out.add("system in parts")
        if len(texts) < len(parts):
            self.left_out.add("cache point in system or tools: cache auto places them")

    def _tools(self, config: dict[str, Any]) -> None:
        specs = [tool["toolSpec"] for tool in config.get("tools", []) if "toolSpec" in tool]
        for tool in config.get("tools", []):
            if "systemTool" in tool:
                self.left_out.add("systemTool")
            elif "cachePoint" in tool:
                self.left_out.add("cache point in system or tools: cache auto places them")
            elif "strict" in tool["toolSpec"]:
                self.left_out.add("strict")
        if specs:
            self.request["tools"] = [
                {
                    "name": spec["name"],
                    "description": spec.get("description", ""),
                    "input_schema": spec["inputSchema"]["json"],
                }
                for spec in specs
            ]
            choice = config.get("toolChoice") or {"auto": {}}
            kind, value = next(iter(choice.items()))
            self.request["tool_choice"] = {"name": value["name"]} if kind == "tool" else kind

    def _extras(self, source: dict[str, Any]) -> None:
        if guardrail := source.get("guardrailConfig"):
            self.request["guardrail"] = {
                "id": guardrail["guardrailIdentifier"],
                "version": guardrail["guardrailVersion"],
            }
        if tier := source.get("serviceTier"):
            self.request["service_tier"] = tier["type"]
        if "performanceConfig" in source:
            self.left_out.add("performanceConfig")
        if form := source.get("outputConfig", {}).get("textFormat"):
            self.request["output"] = {"schema": json.loads(form["structure"]["jsonSchema"]["schema"])}

    def _reasoning(self, extra: dict[str, Any]) -> None:
        rest = dict(extra)
        rest.pop("top_k", None)
        rest.pop("inferenceConfig", None)
        thinking, config = rest.pop("thinking", {}), rest.pop("output_config", {})
        effort = config.get("effort") or rest.pop("reasoning_effort", None) or rest.pop("reasoning_config", None)
        if "budget_tokens" in thinking:
            self.request["reasoning"] = {"budget_tokens": thinking["budget_tokens"]}
        elif thinking or effort:
            self.request["reasoning"] = {"effort": effort or "high"}
        self.left_out |= {f"additionalModelRequestFields.{key}" for key in rest}


def _params(source: dict[str, Any]) -> dict[str, Any]:
    inference, extra = source.get("inferenceConfig", {}), source.get("additionalModelRequestFields", {})
    found = {
        "max_tokens": inference.get("maxTokens"),
        "temperature": inference.get("temperature"),
        "top_p": inference.get("topP"),
        "top_k": extra.get("top_k", extra.get("inferenceConfig", {}).get("topK")),
        "stop": inference.get("stopSequences"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _reasoning_block(value: dict[str, Any]) -> dict[str, Any]:
    if "redactedContent" in value:
        return {"type": "reasoning", "redacted": value["redactedContent"]}
    thought = value["reasoningText"]
    made = {"type": "reasoning", "text": thought["text"]}
    return {**made, "signature": thought["signature"]} if "signature" in thought else made


@dataclass
class Answered:
    """What was recorded of an answer. `text` is without what Nova writes between <thinking> tags."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[tuple[str, Any]] = field(default_factory=list)
    stop_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    def take_block(self, block: dict[str, Any]) -> None:
        thought = block.get("reasoningContent", {}).get("reasoningText", {})
        self.text += block.get("text", "")
        self.reasoning += thought.get("text", "")
        if "toolUse" in block and block["toolUse"].get("type") != "server_tool_use":
            self.tool_calls.append((block["toolUse"]["name"], block["toolUse"]["input"]))

    def split_thinking(self) -> None:
        self.reasoning += "".join(match.group(1) for match in _THINKING.finditer(self.text))
        self.text = _THINKING.sub("", self.text)


def answered(recording: Recording) -> Answered:
    """The recorded answer, read without the product's code."""
    found = Answered()
    if not recording.is_stream:
        body = json.loads(recording.response)
        for block in body["output"]["message"]["content"]:
            found.take_block(block)
        found.stop_reason, found.usage = body["stopReason"], body["usage"]
        return found
    blocks: dict[int, dict[str, Any]] = {}
    buffer = EventStreamBuffer()
    buffer.add_data(recording.response)
    for message in buffer:
        kind, payload = message.headers[":event-type"], json.loads(message.payload)
        if kind == "messageStop":
            found.stop_reason = payload["stopReason"]
        elif kind == "metadata":
            found.usage = payload["usage"]
        elif kind in ("contentBlockStart", "contentBlockDelta"):
            _take_event(blocks.setdefault(payload["contentBlockIndex"], {}), kind, payload)
    for _, block in sorted(blocks.items()):
        if "arguments" in block:
            block["toolUse"]["input"] = json.loads(block.pop("arguments") or "{}")
        found.take_block(block)
    return found


def _take_event(block: dict[str, Any], kind: str, payload: dict[str, Any]) -> None:
    if kind == "contentBlockStart":
        block.update(payload["start"])
        if "toolUse" in block:
            block["arguments"] = ""
        return
    delta = payload["delta"]
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    elif "toolUse" in delta and "arguments" in block:
        block["arguments"] += delta["toolUse"]["input"]
    elif "text" in delta.get("reasoningContent", {}):
        thought = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
        thought["text"] += delta["reasoningContent"]["text"]
