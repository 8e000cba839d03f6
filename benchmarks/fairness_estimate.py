"""How far off the estimate of input tokens is, against recorded calls whose usage is known.

`python -m benchmarks.fairness_estimate` prints the errors by family. The recordings lie beside the repository
(`../shared/recordings`); without them there is nothing to measure.
"""

import json
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from botocore.eventstream import EventStreamBuffer

from sidecar.coordinator.token_estimate import call_tokens, request_tokens
from sidecar.models.call import ToolSpec
from sidecar.models.content import (
    Block,
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
from sidecar.models.profile import Family
from sidecar.models.request import JobRequest, OutputSpec

RECORDINGS = Path(__file__).parents[2] / "shared" / "recordings" / "bedrock_converse.jsonl"


class Measured(NamedTuple):
    """One recorded call: what it really was, and what would have been estimated."""

    model_id: str
    family: Family
    actual: int
    estimate: int
    is_text: bool = True

    @property
    def error(self) -> float:
        """Relative to the actual number; positive: too high."""
        return self.estimate / self.actual - 1


def measure() -> list[Measured]:
    """All recorded calls with a known usage, each request once. Empty without recordings."""
    if not RECORDINGS.is_file():
        return []
    seen: set[str] = set()
    found = []
    for line in RECORDINGS.read_text().splitlines():
        row = json.loads(line)
        key = row["model_id"] + json.dumps(row["request"], sort_keys=True)
        usage = _usage(row) if row["status"] == 200 else None
        if usage is None or key in seen or '"video"' in key or '"s3Location"' in key:
            continue
        seen.add(key)
        actual = sum(usage.get(k, 0) for k in ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"))
        family = family_of(row["model_id"])
        is_text = not any(f'"{kind}": {{' in key for kind in ("document", "image"))
        found.append(Measured(row["model_id"], family, actual, _estimate(row["request"], family), is_text))
    return found


def family_of(model_id: str) -> Family:
    return "claude" if "claude" in model_id else "nova" if "nova" in model_id else "other"


def _usage(row: dict[str, Any]) -> dict[str, int] | None:
    body = b64decode(row["response_b64"])
    if row["operation"] == "converse":
        usage: dict[str, int] | None = json.loads(body).get("usage")
        return usage
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    for event in buffer:
        payload = json.loads(event.payload) if event.payload else {}
        if "usage" in payload:
            streamed: dict[str, int] = payload["usage"]
            return streamed
    return None


def _estimate(request: dict[str, Any], family: Family) -> int:
    messages = tuple(
        Message(role=message["role"], content=tuple(_blocks(message["content"])))
        for message in request["messages"]
    )
    system = "".join(part.get("text", "") for part in request.get("system", ())) or None
    tools = [
        ToolSpec(
            name=tool["toolSpec"]["name"],
            description=tool["toolSpec"].get("description", ""),
            input_schema=tool["toolSpec"]["inputSchema"]["json"],
        )
        for tool in request.get("toolConfig", {}).get("tools", ())
        if "toolSpec" in tool
    ]
    schema = request.get("outputConfig", {}).get("textFormat", {}).get("structure", {}).get("jsonSchema", {})
    if schema:
        spec = OutputSpec(schema=json.loads(schema["schema"]))
        return request_tokens(
            JobRequest(messages=messages, system=system, output=spec), family=family, tools=tools
        )
    return call_tokens(messages, system=system, tools=tools, family=family)


def _blocks(content: list[dict[str, Any]]) -> Iterator[Block]:
    for block in content:
        if "text" in block:
            yield TextBlock(text=block["text"])
        elif "image" in block:
            image = block["image"]
            yield ImageBlock(source=Source(data=b64decode(image["source"]["bytes"])), format=image["format"])
        elif "document" in block:
            yield _document(block["document"])
        elif "toolUse" in block:
            use = block["toolUse"]
            yield ToolUseBlock(id=use["toolUseId"], name=use["name"], input=use["input"])
        elif "toolResult" in block:
            result = block["toolResult"]
            parts = tuple(_result_parts(result["content"]))
            yield ToolResultBlock(tool_use_id=result["toolUseId"], content=parts)
        elif "reasoningText" in block.get("reasoningContent", ()):
            reasoning = block["reasoningContent"]["reasoningText"]
            yield ReasoningBlock(text=reasoning["text"], signature=reasoning.get("signature"))


def _document(document: dict[str, Any]) -> DocumentBlock:
    source = document["source"]
    data = b64decode(source["bytes"]) if "bytes" in source else source.get("text", "").encode()
    return DocumentBlock(source=Source(data=data), format=document["format"], name=document["name"])


def _result_parts(content: list[dict[str, Any]]) -> Iterator[TextBlock | JsonBlock | ImageBlock | DocumentBlock]:
    for part in content:
        if "json" in part:
            yield JsonBlock(value=part["json"])
        else:
            for block in _blocks([part]):
                if isinstance(block, (TextBlock, ImageBlock, DocumentBlock)):
                    yield block


def summary(measured: list[Measured]) -> list[str]:
    """Lines of a table: by family, the median and the 90th percentile of the absolute error, and the bias.

    `text >100`: calls without images and documents that have at least 100 tokens.
    """
    lines = [f"{'family':<10}{'calls':>6}{'median':>9}{'p90':>9}{'bias':>9}{'tokens, total':>16}"]
    kinds: dict[str, Callable[[Measured], bool]] = {
        "claude": lambda m: m.family == "claude",
        "nova": lambda m: m.family == "nova",
        "other": lambda m: m.family == "other",
        "text >100": lambda m: m.is_text and m.actual >= 100,
        "all": lambda m: True,
    }
    for family, belongs in kinds.items():
        rows = [m for m in measured if belongs(m)]
        if rows:
            errors = sorted(abs(m.error) for m in rows)
            bias = median(m.error for m in rows)
            total = sum(m.estimate for m in rows) / sum(m.actual for m in rows) - 1
            p90 = errors[int(len(errors) * 0.9)]
            lines.append(
                f"{family:<10}{len(rows):>6}{median(errors):>9.0%}{p90:>9.0%}{bias:>+9.0%}{total:>+16.0%}"
            )
    return lines


def main() -> int:
    measured = measure()
    if not measured:
        print("no recordings at ../shared/recordings", file=sys.stderr)
        return 2
    print("\n".join(summary(measured)))
    print("\nfurthest off:")
    for m in sorted(measured, key=lambda m: -abs(m.error))[:12]:
        print(f"{m.model_id[:46]:<48}{m.actual:>7} estimated {m.estimate:>7} {m.error:+.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
