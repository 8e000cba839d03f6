"""Recorded exchanges with Amazon Bedrock, kept beside the repository, and a server that replays them."""

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings" / "bedrock_converse.jsonl"


@dataclass(frozen=True)
class Recording:
    name: str
    model_id: str
    operation: str
    status: int
    headers: dict[str, str]
    request: dict[str, Any]
    response: bytes

    @property
    def is_stream(self) -> bool:
        return self.operation == "converse-stream"


def load_recordings() -> list[Recording]:
    """All recordings; none where they are not at hand."""
    if not RECORDINGS.is_file():
        return []
    found = []
    for line in RECORDINGS.read_text().splitlines():
        row = json.loads(line)
        fields = {key: row[key] for key in ("name", "model_id", "operation", "status", "headers", "request")}
        found.append(Recording(**fields, response=b64decode(row["response_b64"])))
    return found


def recordings_or_skip(is_wanted: Callable[[Recording], bool] = lambda _: True) -> list[Any]:
    """Parameters of a test over the recordings wanted, or one that says why it is skipped."""
    recordings = load_recordings()
    if not recordings:
        skip = pytest.mark.skip(reason="no recordings beside the repository (../shared/recordings)")
        return [pytest.param(None, marks=skip, id="no-recordings")]
    return [pytest.param(recording, id=recording.name) for recording in recordings if is_wanted(recording)]


class ReplayServer:
    """Answers every call with the recording in `current`, in pieces of an awkward size. Keeps the requests."""

    def __init__(self, piece_bytes: int = 97) -> None:
        self.current: Recording | None = None
        self.requests: list[tuple[str, bytes]] = []
        self._piece_bytes = piece_bytes
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self.current is not None
        self.requests.append((request.raw_path, await request.read()))
        if not self.current.is_stream:
            return web.Response(
                status=self.current.status, headers=self.current.headers, body=self.current.response
            )
        response = web.StreamResponse(status=self.current.status, headers=self.current.headers)
        await response.prepare(request)
        body = self.current.response
        for at in range(0, len(body), self._piece_bytes):
            await response.write(body[at : at + self._piece_bytes])
        await response.write_eof()
        return response
