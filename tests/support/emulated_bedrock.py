"""The real Bedrock client over the emulator's service without a socket between them: for virtual time."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict

from sidecar.adapters.bedrock.errors import http_error, unreachable
from sidecar.adapters.bedrock.guardrail import GuardrailRequest
from sidecar.adapters.bedrock.http_transport import _HttpReader
from sidecar.adapters.bedrock.manager import BedrockManager
from sidecar.adapters.bedrock.transport import CallTarget, EventReader
from sidecar.config.settings import BedrockSettings
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.plan import End, Send
from sidecar.emulator.scenario import make_scenario
from sidecar.emulator.service import BedrockService, Prepared
from sidecar.models.call import CallLimits


class _Body:
    """A response's body, and how it ends."""

    def __init__(self, pieces: list[bytes], *, is_broken: bool) -> None:
        self._pieces = pieces
        self._is_broken = is_broken

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        if self._pieces:
            return self._pieces.pop(0)
        if self._is_broken:
            raise aiohttp.ClientPayloadError("the connection was lost")
        return b""

    def is_eof(self) -> bool:
        return not self._pieces

    def set_exception(self, error: Exception) -> None:
        raise error


class _Response:
    def __init__(self, body: _Body) -> None:
        self.content = body
        self.headers: CIMultiDict[str] = CIMultiDict()

    def release(self) -> None: ...

    def close(self) -> None: ...


class EmulatedTransport:
    """`behave`: for each call in turn how it is answered, in the emulator's grammar; plainly after the last.

    `null` in place of that: a whole answer whose count of output tokens is null.
    """

    def __init__(self, behave: list[str]) -> None:
        self.service = BedrockService(make_scenario({}), keep_calls=1_000)
        self._behave = list(behave)
        self._spoils = False

    async def converse(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> bytes:
        body, is_broken = self._answered(target, params, is_stream=False)
        data = b"".join(body)
        if is_broken:
            lost = unreachable(aiohttp.ClientPayloadError("the connection was lost"))
            lost.reached = "sent"
            raise lost
        if self._spoils:
            parsed = msgspec.json.decode(data)
            parsed["usage"]["outputTokens"] = None
            return msgspec.json.encode(parsed)
        return data

    async def open_stream(self, target: CallTarget, params: Mapping[str, Any], limits: CallLimits) -> EventReader:
        body, is_broken = self._answered(target, params, is_stream=True)
        return _HttpReader(_Response(_Body(body, is_broken=is_broken)))  # type: ignore[arg-type]

    async def apply_guardrail(self, region: str, request: GuardrailRequest, limits: CallLimits) -> bytes:
        raise NotImplementedError

    async def close(self) -> None: ...

    def _answered(
        self, target: CallTarget, params: Mapping[str, Any], *, is_stream: bool
    ) -> tuple[list[bytes], bool]:
        behave = self._behave.pop(0) if self._behave else ""
        self._spoils = behave == "null"
        self.service.load(make_scenario({"default": "" if self._spoils else behave}))
        record = self.service.journal.open(
            request_id="r",
            operation="converse-stream" if is_stream else "converse",
            model_id=target.invoke_id,
            region=target.region,
            body=msgspec.json.encode(params),
            retry_attempt=None,
        )
        try:
            prepared = self.service.prepare(record, is_stream=is_stream)
        except Refusal as refusal:
            self.service.refuse(record, refusal)
            said = msgspec.json.encode({"message": refusal.message})
            raise http_error(refusal.kind.status, {"x-amzn-errortype": refusal.kind.error_type}, said) from None
        return self._sent(prepared)

    def _sent(self, prepared: Prepared) -> tuple[list[bytes], bool]:
        sent = [step for step in prepared.steps if isinstance(step, Send)]
        prepared.record.sent_tokens = sum(step.tokens for step in sent)
        ends = [step.how for step in prepared.steps if isinstance(step, End)]
        is_broken = bool(ends) and ends[-1] != "eof"
        self.service.close(prepared, is_aborted=is_broken)
        return [step.data for step in sent], is_broken


def emulated(behave: list[str]) -> tuple[BedrockManager, EmulatedTransport]:
    """A client whose calls the emulator answers, and the way to the emulator's journal."""
    transport = EmulatedTransport(behave)
    client = BedrockManager(BedrockSettings())
    client._transport = transport
    return client, transport
