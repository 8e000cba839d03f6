"""Recorded exchanges with Bedrock: the emulator takes and refuses what it did, and answers in its shape."""

import base64
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from botocore.eventstream import EventStreamBuffer

from sidecar.emulator import Emulator

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "recordings" / "bedrock_converse.jsonl"

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not beside the repository")


def read_recordings() -> list[dict[str, Any]]:
    if not RECORDINGS.exists():
        return []
    return [json.loads(line) for line in RECORDINGS.read_text().splitlines()]


def shape(value: Any, path: str = "") -> set[str]:
    """Paths of all keys; lists and the names of guardrails are passed through."""
    if isinstance(value, list):
        return set().union(*(shape(item, path + "[]") for item in value), set())
    if not isinstance(value, dict):
        return {f"{path}:{type(value).__name__}"}
    found: set[str] = {path}
    for key, item in value.items():
        is_name = path.endswith(("inputAssessment", "outputAssessments"))
        found |= shape(item, f"{path}.{'*' if is_name else key}")
    return found


def frames(data: bytes) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    for event in buffer:
        yield event.headers, json.loads(event.payload)


@pytest.fixture
async def ask() -> AsyncIterator[Any]:
    async with Emulator() as emulator, aiohttp.ClientSession() as session:

        async def post(recording: dict[str, Any], request: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
            url = f"{emulator.url}/model/{quote(recording['model_id'], safe='')}/{recording['operation']}"
            async with session.post(url, json=request) as response:
                return response.status, await response.read(), dict(response.headers)

        yield post


@pytest.mark.parametrize("recording", read_recordings(), ids=lambda r: r["name"])
async def test_the_same_requests_are_taken_and_refused(recording: dict[str, Any], ask: Any) -> None:
    status, body, headers = await ask(recording, recording["request"])
    assert status == recording["status"], body
    assert headers["Content-Type"] == recording["headers"]["content-type"]
    if status != 200:
        recorded = json.loads(base64.b64decode(recording["response_b64"]))["message"]
        assert json.loads(body)["message"] == recorded


def script(recording: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    """The recorded request, told to call the tools and to reason as the recorded reply does."""
    words: list[str] = []
    for block in reply["output"]["message"]["content"]:
        if "toolUse" in block:
            words.append(
                f"[[tool={block['toolUse']['name']} turn=0 input={json.dumps(block['toolUse']['input'])}]]"
            )
        elif "reasoningContent" in block:
            is_redacted = "redactedContent" in block["reasoningContent"]
            words.append(f"[[reasoning=10 {'redacted' if is_redacted else ''}]]")
    request: dict[str, Any] = json.loads(json.dumps(recording["request"]))
    if words:
        for message in reversed(request["messages"]):
            texts = [block for block in message["content"] if "text" in block]
            if message["role"] == "user" and texts:
                texts[-1]["text"] += " ".join(words)
                break
    return request


def is_plain(recording: dict[str, Any]) -> bool:
    return recording["operation"] == "converse" and recording["status"] == 200


# Tools that the service runs itself are not emulated; a signature or `type` may be missing from older recordings.
NOT_EMULATED = (".toolResult", ".toolUse.input", ".toolUse.type", ".cacheDetails", ".signature", ".usage.cache")


@pytest.mark.parametrize("recording", [r for r in read_recordings() if is_plain(r)], ids=lambda r: r["name"])
async def test_replies_have_the_recorded_keys(recording: dict[str, Any], ask: Any) -> None:
    recorded = json.loads(base64.b64decode(recording["response_b64"]))
    _, body, _ = await ask(recording, script(recording, recorded))
    wanted, got = shape(recorded), shape(json.loads(body))
    missing = {path for path in wanted - got if not any(part in path for part in NOT_EMULATED)}
    if recorded["stopReason"] != json.loads(body)["stopReason"]:
        missing = {path for path in missing if ".content[]" not in path}
    assert not {path for path in missing if ".content[].text" not in path}


async def test_streams_have_the_recorded_headers_and_keys(ask: Any) -> None:
    recordings = [r for r in read_recordings() if r["operation"] == "converse-stream"]
    assert recordings
    wanted: dict[str, set[str]] = {}
    got: dict[str, set[str]] = {}
    for recording in recordings:
        for headers, payload in frames(base64.b64decode(recording["response_b64"])):
            wanted.setdefault(json.dumps(headers), set()).update(shape(payload))
        for words in ("", "[[reasoning=9]]", "[[reasoning=9 redacted]]", "[[tool=x turn=0]]"):
            request = json.loads(json.dumps(recording["request"]))
            last = next(m for m in reversed(request["messages"]) if m["role"] == "user")
            last["content"].append({"text": f"{words} go"})
            _, body, _ = await ask(recording, request)
            for headers, payload in frames(body):
                got.setdefault(json.dumps(headers), set()).update(shape(payload))
    assert set(got) == set(wanted)
    for headers, paths in wanted.items():
        assert not {p for p in paths - got[headers] if not any(part in p for part in NOT_EMULATED)}, headers
