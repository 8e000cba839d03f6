"""A client that knows `schemas/README.md` and nats-py, and nothing of the sidecar's code."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

LIMIT_S = 60.0
TERMINAL = ("succeeded", "failed", "cancelled", "expired", "rejected")


def asks(text: str, *, model: str | None = "claude-sonnet-4-5", **more: Any) -> dict[str, Any]:
    """A request of one user message."""
    request = {"messages": [{"role": "user", "content": text}], **more}
    return {**request, "model": model} if model else request


class Feed:
    """Events of one job, or of all jobs of a tenant, as they are heard."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    async def hear(self, message: Msg) -> None:
        self.events.append(json.loads(message.data))
        self._changed.set()

    async def until(self, is_enough: Any, *, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
        """Wait until `is_enough(events)`. Raises TimeoutError with what was heard."""
        try:
            async with asyncio.timeout(limit_s):
                while not is_enough(self.events):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"heard only {self.events[-5:]}") from None
        return self.events

    async def result(self, *, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """The event `result`; the last that a feed of one job has."""
        events = await self.until(lambda events: any(e["type"] == "result" for e in events), limit_s=limit_s)
        return next(e for e in events if e["type"] == "result")

    async def first_delta(self) -> None:
        await self.until(lambda events: any(e["type"] == "delta" for e in events))

    @property
    def text(self) -> str:
        """The text of the last attempt's deltas."""
        last = max((e["attempt"] for e in self.events), default=0)
        taken: dict[int, str] = {}
        for event in self.events:
            if event["type"] == "delta" and event["attempt"] == last:
                taken[event["n"]] = event["data"].get("text", "")
        return "".join(taken[n] for n in sorted(taken))


class Stranger:
    """One application of a tenant."""

    def __init__(self, connection: Client, tenant: str) -> None:
        self.connection = connection
        self.tenant = tenant

    async def follow(self, job: str, kind: str = ">") -> Feed:
        feed = Feed()
        await self.connection.subscribe(f"llm.v1.job.{self.tenant}.{job}.{kind}", cb=feed.hear)
        await self.connection.flush()
        return feed

    async def publish(
        self,
        payload: Any,
        *,
        job: str | None = None,
        job_class: str = "standard",
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The stream's acknowledgement of a request."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        given = dict(headers or {})
        if job is not None:
            given |= {"Llm-Job-Id": job, "Nats-Msg-Id": f"{self.tenant}:{job}"}
        subject = f"llm.v1.request.{self.tenant}.{job_class}"
        reply = await self.connection.request(subject, data, timeout=LIMIT_S, headers=given or None)
        acknowledgement: dict[str, Any] = json.loads(reply.data)
        return acknowledgement

    async def submit(self, payload: Any, *, job: str, **more: Any) -> Feed:
        feed = await self.follow(job)
        acknowledgement = await self.publish(payload, job=job, **more)
        assert acknowledgement.get("seq"), acknowledgement
        return feed

    async def run(self, payload: Any, *, job: str, **more: Any) -> dict[str, Any]:
        """The result's data of a job."""
        feed = await self.submit(payload, job=job, **more)
        data: dict[str, Any] = (await feed.result())["data"]
        return data

    async def ask(self, verb: str, *tokens: str, payload: Any = b"", headers: dict[str, str] | None = None) -> Msg:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return await self.connection.request(
            ".".join(("llm.v1", verb, *tokens)), data, timeout=LIMIT_S, headers=headers
        )

    async def answer(self, verb: str, *tokens: str, payload: Any = b"") -> Any:
        """The body of a reply that is no error."""
        reply = await self.ask(verb, *tokens, payload=payload)
        assert "Nats-Service-Error-Code" not in (reply.headers or {}), reply.data
        return json.loads(reply.data)

    async def replay(self, job: str, **after: int) -> list[dict[str, Any]]:
        inbox = self.connection.new_inbox()
        events: list[dict[str, Any]] = []
        subscription = await self.connection.subscribe(inbox)
        payload = json.dumps(after).encode() if after else b""
        await self.connection.publish(f"llm.v1.replay.{self.tenant}.{job}", payload, reply=inbox)
        while True:
            message = await subscription.next_msg(timeout=LIMIT_S)
            if message.headers and message.headers.get("Llm-End") == "true":
                assert message.data == b""
                break
            assert "Nats-Service-Error-Code" not in (message.headers or {}), message.data
            events.append(json.loads(message.data))
        await subscription.unsubscribe()
        return events


def check_story(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold a job's stored events against the protocol. Returns the result's data."""
    assert [e["type"] for e in events].count("result") == 1
    assert events[-1]["type"] == "result"
    places = [(e["attempt"], e["n"]) for e in events]
    assert places == sorted(set(places))
    for attempt in {attempt for attempt, _ in places}:
        numbers = [n for a, n in places if a == attempt]
        assert numbers == list(range(1, len(numbers) + 1))
    data: dict[str, Any] = events[-1]["data"]
    assert data["state"] in TERMINAL
    if data["text_sha256"]:
        assert hashlib.sha256(data["output"]["text"].encode()).hexdigest() == data["text_sha256"]
    return data


@asynccontextmanager
async def stranger(url: str, tenant: str, *, inbox: str = "_INBOX") -> AsyncIterator[Stranger]:
    async def quiet(_: Exception) -> None:
        return None

    connection = await nats.connect(
        url.split(","),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=quiet,
        pending_size=64 * 1024 * 1024,
        inbox_prefix=inbox.encode(),
    )
    try:
        yield Stranger(connection, tenant)
    finally:
        await connection.close()
