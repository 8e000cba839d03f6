"""HTTP in front of the service: paths, headers, statuses, and the transfer of prepared answers."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import msgspec
from aiohttp import web

from sidecar.emulator import plan
from sidecar.emulator.auth import AuthPolicy, authorize, read_region
from sidecar.emulator.behaviour import EXCEPTION_FAULTS, Circumstances
from sidecar.emulator.control import Control, ControlError
from sidecar.emulator.control_plane import answer_control_plane
from sidecar.emulator.exceptions import Refusal
from sidecar.emulator.frames import CONTENT_TYPE
from sidecar.emulator.guardrail import apply_guardrail
from sidecar.emulator.journal import CallRecord
from sidecar.emulator.service import BedrockService, Prepared, decode_body
from sidecar.emulator.transmit import Pace, break_connection, transmit

CONTROL_PREFIX = "/_emulator/"
REGION_PREFIX = "/_region/"

_JSON = "application/json"
_ERROR_SUFFIX = ":http://internal.amazon.com/coral/com.amazon.bedrock/"
_OPERATIONS = ("converse", "converse-stream")
_encode_json = msgspec.json.Encoder().encode


class HttpFront:
    """The request handler of the emulator's HTTP server."""

    def __init__(self, service: BedrockService, control: Control, policy: AuthPolicy) -> None:
        self._service = service
        self._control = control
        self._policy = policy

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, whatever it is."""
        body = await request.read()
        target = request.raw_path
        path = target.partition("?")[0]
        if path.startswith(CONTROL_PREFIX):
            return self._handle_control(request, path.removeprefix(CONTROL_PREFIX), body)
        request_id = str(uuid.uuid4())
        try:
            authorize(self._policy, method=request.method, target=target, headers=request.headers, body=body)
            region = read_region(request.headers.get("Authorization", ""))
            if path.startswith(REGION_PREFIX):
                region, _, path = path.removeprefix(REGION_PREFIX).partition("/")
            parts = [unquote(part) for part in path.strip("/").split("/")]
            if len(parts) == 3 and parts[0] == "model" and parts[2] in _OPERATIONS and request.method == "POST":
                record = self._service.journal.open(
                    request_id=request_id,
                    operation=parts[2],
                    model_id=parts[1],
                    region=region,
                    body=body,
                    retry_attempt=request.headers.get("amz-sdk-request"),
                )
                return await self._converse(request, record)
            return await self._handle_plain(request, parts, body, region=region, request_id=request_id)
        except Refusal as refusal:
            return make_error(refusal, request_id)

    async def _converse(self, request: web.BaseRequest, record: CallRecord) -> web.StreamResponse:
        try:
            prepared = self._service.prepare(record, is_stream=record.operation == "converse-stream")
        except Refusal as refusal:
            self._service.refuse(record, refusal)
            raise
        is_aborted = True
        try:
            response = await self._respond(request, prepared)
            is_aborted = False
            return response
        finally:
            self._service.close(prepared, is_aborted=is_aborted)

    async def _respond(self, request: web.BaseRequest, prepared: Prepared) -> web.StreamResponse:
        behaviour, record = prepared.behaviour, prepared.record
        jitter = self._service.make_jitter(behaviour)
        delay_s = behaviour.latency_ms / 1000
        if not prepared.is_stream:
            delay_s += behaviour.ttft_ms / 1000
            if behaviour.tps > 0:
                delay_s += prepared.output_tokens / behaviour.tps
        if delay_s > 0:
            await asyncio.sleep(delay_s * jitter())
        for fault in prepared.faults:
            if plan.is_before_headers(fault, is_stream=prepared.is_stream):
                if fault.kind == "stall":
                    await asyncio.sleep(fault.s)
                else:
                    break_connection(request, is_reset=fault.kind == "reset")
                    return web.Response()
        record.status = 200
        headers = make_headers(prepared, record.request_id)
        if not prepared.is_stream and (whole := plan.find_whole_body(prepared.steps)) is not None:
            record.sent_bytes = len(whole)
            return web.Response(body=whole, headers=headers)
        return await self._stream(request, prepared, headers)

    async def _stream(
        self, request: web.BaseRequest, prepared: Prepared, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        behaviour, record = prepared.behaviour, prepared.record
        response = web.StreamResponse(headers=headers)
        if not prepared.is_stream:
            response.content_length = len(prepared.body)
        await response.prepare(request)
        jitter = self._service.make_jitter(behaviour)
        pace = Pace(behaviour.tps if prepared.is_stream else 0.0, jitter=jitter)
        if prepared.is_stream and behaviour.ttft_ms > 0:
            pace.shift(behaviour.ttft_ms / 1000)
            await asyncio.sleep(behaviour.ttft_ms / 1000 * jitter())

        def note(sent_bytes: int, tokens: int) -> None:
            record.sent_bytes += sent_bytes
            record.sent_tokens += tokens

        await transmit(response, request, prepared.steps, pace=pace, on_sent=note)
        return response

    async def _handle_plain(
        self, request: web.BaseRequest, parts: Sequence[str], body: bytes, *, region: str, request_id: str
    ) -> web.Response:
        headers = {"Content-Type": _JSON, "x-amzn-RequestId": request_id}
        answer: object = None
        operation = parts[-1] if request.method == "POST" else parts[0]
        await self._obstruct(operation, region)
        match request.method, *parts:
            case "POST", "model", model_id, "count-tokens":
                answer = {"inputTokens": self._service.count_tokens(model_id, body)}
            case "POST", "guardrail", identifier, "version", version, "apply":
                answer = apply_guardrail(identifier, version, decode_body(body), region=region)
            case "GET", *_:
                answer = answer_control_plane(
                    parts,
                    region=region,
                    models=self._service.script.scenario.models,
                    profiles=self._service.profiles,
                )
        if answer is None:
            raise Refusal("unknown_operation")
        self._service.journal.counters[operation] += 1
        return web.Response(body=_encode_json(answer), headers=headers)

    async def _obstruct(self, operation: str, region: str) -> None:
        """Delay or refuse an operation that is no model call, where a rule says so."""
        behaviour = self._service.script.decide_plain(Circumstances(operation=operation, region=region))
        if behaviour.latency_ms > 0:
            await asyncio.sleep(behaviour.latency_ms / 1000)
        for fault in behaviour.faults:
            if fault.kind in EXCEPTION_FAULTS:
                self._service.journal.counters[f"{operation} refused"] += 1
                raise plan.refusal_of(fault)

    def _handle_control(self, request: web.BaseRequest, path: str, body: bytes) -> web.Response:
        status = 200
        try:
            answer = self._control.handle(request.method, path.strip("/"), request.query, body)
        except ControlError as e:
            status, answer = e.status, {"message": str(e)}
        return web.Response(status=status, body=_encode_json(answer), headers={"Content-Type": _JSON})


def make_headers(prepared: Prepared, request_id: str) -> dict[str, str]:
    """Headers of an answer with status 200."""
    content_type = CONTENT_TYPE if prepared.is_stream else _JSON
    if any(fault.kind == "html" for fault in prepared.faults):
        content_type = "text/html"
    return {"Content-Type": content_type, "x-amzn-RequestId": request_id}


def make_error(refusal: Refusal, request_id: str) -> web.Response:
    """The error as the service words it: type in a header, message in a JSON body."""
    headers = {
        "Content-Type": _JSON,
        "x-amzn-RequestId": request_id,
        "x-amzn-ErrorType": refusal.kind.error_type + _ERROR_SUFFIX,
    }
    if refusal.retry_after is not None:
        headers["Retry-After"] = f"{refusal.retry_after:g}"
    body = _encode_json({"message": refusal.message, **refusal.members()})
    return web.Response(status=refusal.kind.status, body=body, headers=headers)
