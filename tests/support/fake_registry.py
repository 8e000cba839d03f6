"""A tool registry in a few lines, over a real NATS server, and a caller that speaks for the sidecar."""

import asyncio
import itertools
import json
from collections import defaultdict
from typing import Any

import nats.aio.client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

PROGRESS = "Llm-Tool-Progress"


class CallReplies:
    """What came for one call: heartbeats counted, then the answer."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.heartbeats = 0

    async def answer(self, *, timeout_s: float = 60.0) -> Msg:
        while True:
            message = await self.subscription.next_msg(timeout=timeout_s)
            if (message.headers or {}).get(PROGRESS) == "in_progress":
                self.heartbeats += 1
                continue
            return message


class FakeRegistry:
    """`refuse` is an error reply's (number, code, text) for all registrations from then on."""

    def __init__(self) -> None:
        self.nc = nats.aio.client.Client()
        self.registrations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.deregistered: list[str] = []
        self.refuse: tuple[int, str, str] | None = None
        self.subject: str | None = None
        self.news = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._ids = itertools.count()

    async def start(self, url: str, *, is_listening: bool = True) -> None:
        async def quiet(error: Exception) -> None:
            """Restarts are what some tests are about."""

        await self.nc.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet)
        if is_listening:
            await self.listen()

    async def listen(self) -> None:
        self._subscriptions = [
            await self.nc.subscribe("llm.v1.tools.*.register", cb=self._register),
            await self.nc.subscribe("llm.v1.tools.*.deregister", cb=self._deregister),
        ]
        await self.nc.flush()

    async def deafen(self) -> None:
        """As a sidecar that is away."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self.nc.flush()

    async def stop(self) -> None:
        await self.nc.close()

    async def seen(self, tool: str, count: int, *, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """The registrations of `tool`, once there are `count`."""
        async with asyncio.timeout(timeout_s):
            while len(self.registrations[tool]) < count:
                self.news.clear()
                await self.news.wait()
        return self.registrations[tool]

    async def call(
        self,
        tool: str,
        payload: Any,
        *,
        version: str = "1_0_0",
        scope: str = "acme",
        headers: dict[str, str] | None = None,
    ) -> CallReplies:
        inbox = self.nc.new_inbox()
        subscription = await self.nc.subscribe(inbox)
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sent = headers if headers is not None else {"Llm-Tenant": "acme", "Llm-Tool-Use-Id": f"t{next(self._ids)}"}
        await self.nc.publish(f"llm.v1.call.{scope}.{tool}.{version}", body, reply=inbox, headers=sent)
        return CallReplies(subscription)

    async def ask(self, tool: str, payload: Any, **how: Any) -> Any:
        """The output of a call that works."""
        message = await (await self.call(tool, payload, **how)).answer()
        assert "Nats-Service-Error-Code" not in (message.headers or {}), message.headers
        return json.loads(message.data)

    async def fail(self, tool: str, payload: Any, **how: Any) -> tuple[int, str]:
        """The error of a call that does not."""
        message = await (await self.call(tool, payload, **how)).answer()
        headers = message.headers or {}
        return int(headers["Nats-Service-Error-Code"]), headers["Nats-Service-Error"]

    async def _register(self, message: Msg) -> None:
        registration = json.loads(message.data)
        scope = message.subject.split(".")[3]
        if self.refuse is not None:
            number, code, text = self.refuse
            body = {"error": {"code": code, "message": text, "details": {"path": "version"}}}
            headers = {"Nats-Service-Error-Code": str(number), "Nats-Service-Error": text}
            await self.nc.publish(message.reply, json.dumps(body).encode(), headers=headers)
        else:
            version = registration["version"].replace(".", "_")
            subject = self.subject or f"llm.v1.call.{scope}.{registration['name']}.{version}"
            reply = {"subject": subject, "expires": "2026-11-22T10:00:00.000Z", "a_later_field": 1}
            await message.respond(json.dumps(reply).encode())
        self.registrations[registration["name"]].append({**registration, "scope": scope})
        self.news.set()

    async def _deregister(self, message: Msg) -> None:
        asked = json.loads(message.data)
        self.deregistered.append(f"{asked['name']}@{asked['version']}")
        await message.respond(json.dumps({**asked, "removed": True}).encode())
        self.news.set()
