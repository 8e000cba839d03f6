"""What any Bedrock has to do, checked through boto3: for the emulator and for stand-ins that others wrote."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

MODEL = "amazon.nova-lite-v1:0"


@dataclass
class Streamed:
    """A ConverseStream put together again."""

    kinds: list[str] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    signature: str = ""
    stop_reason: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, payload: dict[str, Any]) -> None:
        """Take in one event; repeated kinds are noted once."""
        if not self.kinds or self.kinds[-1] != kind:
            self.kinds.append(kind)
        if kind == "contentBlockDelta":
            delta = payload["delta"]
            reasoning = delta.get("reasoningContent", {})
            self.text += delta.get("text", "")
            self.reasoning += reasoning.get("text", "")
            self.signature += reasoning.get("signature", "")
        elif kind == "messageStop":
            self.stop_reason = payload["stopReason"]
        elif kind == "metadata":
            self.metadata = payload


def collect(response: Any) -> Streamed:
    """Read a ConverseStream response to its end."""
    streamed = Streamed()
    with closing(response["stream"]) as stream:
        for event in stream:
            [(kind, payload)] = event.items()
            streamed.add(kind, payload)
    return streamed


def _ask(text: str = "What is the capital of France?") -> dict[str, Any]:
    return {
        "modelId": MODEL,
        "messages": [{"role": "user", "content": [{"text": text}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 200, "temperature": 0.5},
    }


def check_reply(client: Any) -> None:
    """A reply is the assistant's message with a stop reason, usage and latency."""
    reply = client.converse(**_ask())
    message = reply["output"]["message"]
    assert message["role"] == "assistant"
    assert message["content"][0]["text"]
    assert reply["stopReason"] == "end_turn"
    usage = reply["usage"]
    assert usage["inputTokens"] > 0
    assert usage["outputTokens"] > 0
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert reply["metrics"]["latencyMs"] >= 0
    assert reply["ResponseMetadata"]["RequestId"]


def check_stream(client: Any) -> None:
    """A stream starts a message, brings text, stops it, and ends with usage."""
    streamed = collect(client.converse_stream(**_ask()))
    order = [kind for kind in streamed.kinds if kind != "contentBlockStart"]
    assert order == ["messageStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"]
    assert streamed.text
    assert streamed.stop_reason == "end_turn"
    assert streamed.metadata["usage"]["outputTokens"] > 0


def check_conversation(client: Any) -> None:
    """A second turn is answered with the first one before it."""
    request = _ask()
    first = client.converse(**request)["output"]["message"]
    request["messages"] += [first, {"role": "user", "content": [{"text": "And of Italy?"}]}]
    assert client.converse(**request)["output"]["message"]["content"][0]["text"]


HAPPY_PATH: tuple[Callable[[Any], None], ...] = (check_reply, check_stream, check_conversation)
