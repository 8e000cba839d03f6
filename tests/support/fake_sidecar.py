"""The sidecar's side of the protocol in a few lines, over a real NATS server: for tests of the client alone.

Requests go to a real stream; events are kept in memory, served by `replay`, and told live unless a test wants
them lost.
"""

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import nats.aio.client
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, StreamConfig

Place = tuple[int, int]
RETRY_AFTER_S = 0.05
OnRequest = Callable[["FakeJob", dict[str, Any]], Awaitable[None]]


def result_data(text: str = "", state: str = "succeeded", **more: Any) -> dict[str, Any]:
    return {"state": state, "output": {"text": text, "content": [], "structured": None}, **more}


class FakeJob:
    def __init__(self, sidecar: "FakeSidecar", tenant: str, job: str) -> None:
        self.sidecar, self.tenant, self.job = sidecar, tenant, job
        self.stored: list[tuple[Place, str, bytes]] = []
        self.state: dict[str, Any] | None = None

    async def say(
        self,
        kind: str,
        data: dict[str, Any],
        *,
        attempt: int = 1,
        n: int | None = None,
        live: bool = True,
        stored: bool = True,
    ) -> bytes:
        """Store an event and tell it; `n` counts on by itself."""
        if n is None:
            n = 1 + max((place[1] for place, _, _ in self.stored if place[0] == attempt), default=0)
        payload = json.dumps(
            {
                "job": self.job,
                "tenant": self.tenant,
                "type": kind,
                "attempt": attempt,
                "n": n,
                "time": "2026-11-22T10:00:00.000Z",
                "metadata": {},
                "data": data,
                "a_later_field": 1,
            }
        ).encode()
        if stored:
            self.stored.append(((attempt, n), kind, payload))
        if kind == "result":
            self.set_state(str(data["state"]), attempt=attempt, result=data, result_n=n)
        if live:
            await self.tell(kind, payload)
        return payload

    async def tell(self, kind: str, payload: bytes) -> None:
        await self.sidecar.nc.publish(f"llm.v1.job.{self.tenant}.{self.job}.{kind}", payload)

    async def delta(self, text: str, **how: Any) -> None:
        await self.say("delta", {"index": 0, "text": text}, **how)

    async def result(self, text: str = "", state: str = "succeeded", **how: Any) -> None:
        more = how.pop("data", {})
        await self.say("result", result_data(text, state, **more), **how)

    def set_state(self, state: str, *, attempt: int = 1, **more: Any) -> None:
        self.state = {
            "job": self.job,
            "tenant": self.tenant,
            "class": "interactive",
            "state": state,
            "attempt": attempt,
            "owner": None,
            "model": None,
            "request_seq": 1,
            "created": "2026-11-22T10:00:00.000Z",
            "updated": "2026-11-22T10:00:00.000Z",
            "result": None,
            "result_n": None,
            **more,
        }


class FakeSidecar:
    """`on_request` is called for each request that was stored; a test answers there, or later by hand."""

    def __init__(self, on_request: OnRequest | None = None) -> None:
        self.nc = nats.aio.client.Client()
        self.jobs: dict[tuple[str, str], FakeJob] = {}
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.asked: dict[str, list[bytes]] = defaultdict(list)
        self.refusals = 0
        """How many of the next questions are refused as too many."""
        self._on_request = on_request

    async def start(self, url: str, *, with_stream: bool = True, max_queue: int = 1000) -> None:
        async def quiet(error: Exception) -> None:
            """Reconnects are what some tests are about."""

        await self.nc.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet)
        if with_stream:
            await self.nc.jetstream().add_stream(
                StreamConfig(
                    name="LLM_REQ",
                    subjects=["llm.v1.request.*.*"],
                    discard=DiscardPolicy.NEW,
                    discard_new_per_subject=True,
                    max_msgs_per_subject=max_queue,
                )
            )
        await self.nc.subscribe("llm.v1.request.*.*", cb=self._request)
        for verb in ("get", "replay", "cancel"):
            await self.nc.subscribe(f"llm.v1.{verb}.*.*", cb=self._endpoint)
        for verb in ("jobs", "models"):
            await self.nc.subscribe(f"llm.v1.{verb}.*", cb=self._endpoint)
        await self.nc.flush()

    async def stop(self) -> None:
        await self.nc.close()

    def job(self, job: str, tenant: str = "acme") -> FakeJob:
        return self.jobs.setdefault((tenant, job), FakeJob(self, tenant, job))

    async def _request(self, message: Msg) -> None:
        headers = message.headers or {}
        self.requests.append((message.subject, json.loads(message.data), headers))
        if self._on_request is not None:
            tenant = message.subject.split(".")[3]
            await self._on_request(self.job(headers["Llm-Job-Id"], tenant), json.loads(message.data))

    async def _endpoint(self, message: Msg) -> None:
        verb, *tokens = message.subject.split(".")[2:]
        self.asked[verb].append(message.data)
        if self.refusals > 0:
            self.refusals -= 1
            await self._error(message, 429, "rate_limited", "too many", {"retry_after_s": RETRY_AFTER_S})
            return
        await getattr(self, f"_{verb}")(message, *tokens)

    async def _get(self, message: Msg, tenant: str, job: str) -> None:
        found = self.jobs.get((tenant, job))
        if found is None or found.state is None:
            await self._error(message, 404, "not_found", f"no job {job!r}")
        else:
            await message.respond(json.dumps(found.state).encode())

    async def _replay(self, message: Msg, tenant: str, job: str) -> None:
        asked = json.loads(message.data or b"{}")
        after = (asked.get("attempt", 0), asked.get("n", 0))
        for place, _, payload in self.job(job, tenant).stored:
            if place > after:
                await self.nc.publish(message.reply, payload)
        await self.nc.publish(message.reply, b"", headers={"Llm-End": "true"})

    async def _cancel(self, message: Msg, tenant: str, job: str) -> None:
        reply = {"job": job, "tenant": tenant, "state": "cancelled", "cancelled": True, "requested": False}
        await message.respond(json.dumps(reply).encode())
        await self.job(job, tenant).result(state="cancelled")

    async def _jobs(self, message: Msg, tenant: str) -> None:
        asked = json.loads(message.data)
        states = [j.state for (t, _), j in self.jobs.items() if t == tenant and j.state is not None]
        start = int(asked.get("cursor") or 0)
        end = start + asked.get("limit", 100)
        page = {"jobs": states[start:end], "cursor": str(end) if end < len(states) else None}
        await message.respond(json.dumps(page).encode())

    async def _models(self, message: Msg, tenant: str) -> None:
        await self._error(message, 403, "tenant_denied", f"tenant {tenant} may use no models", {"tenant": tenant})

    async def _error(
        self, message: Msg, number: int, code: str, text: str, details: dict[str, Any] | None = None
    ) -> None:
        body = {"error": {"code": code, "message": text, "details": details or {}}}
        headers = {"Nats-Service-Error-Code": str(number), "Nats-Service-Error": text}
        await self.nc.publish(message.reply, json.dumps(body).encode(), headers=headers)
