"""Jobs with tools over a server in memory: providers that keep a log, models that call them by a script."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.models.call import ModelCall
from sidecar.models.content import JsonBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.event import Event, ToolActivity
from sidecar.ports.bus import Clock
from tests.support.replica import Bench
from tests.support.scripted_model import ScriptedModel, Turn, calls_tools, says

ANY = {"type": "object"}


class Called(NamedTuple):
    tool: str
    input: Any
    headers: Mapping[str, str]
    at: float


class Providers:
    """What stands behind a bench's tools. `log`: every call that reached one, `cancelled`: those broken off."""

    def __init__(self, b: Bench) -> None:
        self._b = b
        self.log: list[Called] = []
        self.cancelled: list[str] = []

    async def add(
        self,
        name: str,
        answer: Callable[[Any], Any] | None = None,
        *,
        takes_s: float = 0.0,
        scope: str = "acme",
        version: str = "1.0.0",
        raw: bytes | None = None,
        is_served: bool = True,
        **more: Any,
    ) -> None:
        """Register a tool and answer its calls. `answer` gets the input, its value is the output."""
        registration = {"name": name, "version": version, "description": name, "input_schema": ANY, "ttl_s": 3600}
        reply = await self._b.ask(
            "tools", scope, "register", payload=msgspec.json.encode({**registration, **more})
        )
        subject = msgspec.json.decode(reply.payload)["subject"]

        async def provide(payload: bytes, headers: Mapping[str, str]) -> bytes:
            given = msgspec.json.decode(payload)
            self.log.append(Called(name, given, headers, self._b.clock.monotonic()))
            try:
                await self._b.clock.sleep(takes_s)
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            if raw is not None:
                return raw
            return msgspec.json.encode(answer(given) if answer else {"tool": name})

        if is_served:
            await self._b.provide(subject, provide)

    def times(self, name: str) -> int:
        return sum(called.tool == name for called in self.log)


def call(name: str, use_id: str | None = None, **given: Any) -> ToolUseBlock:
    return ToolUseBlock(id=use_id or f"use-{name}", name=name, input=given)


def results(asked: ModelCall) -> list[ToolResultBlock]:
    """The tool results of the last message that a model was asked with."""
    content = asked.messages[-1].content
    assert not isinstance(content, str)
    return [block for block in content if isinstance(block, ToolResultBlock)]


def value(block: ToolResultBlock) -> Any:
    """What a result says: a JSON value, or a text."""
    if isinstance(block.content, str):
        return block.content
    (part,) = block.content
    assert isinstance(part, JsonBlock)
    return part.value


def by_turn(clock: Clock, *turns: Turn | Sequence[ToolUseBlock]) -> ScriptedModel:
    """A model whose answer goes by how many turns the conversation has had, whoever asks: good after crashes."""
    script = [turn if isinstance(turn, Turn) else calls_tools(*turn) for turn in turns]

    def choose(asked: ModelCall) -> Turn:
        done = sum(message.role == "assistant" for message in asked.messages)
        return script[done] if done < len(script) else says("done")

    return ScriptedModel(clock, choose)


def activities(events: Sequence[Event], phase: str | None = None) -> list[ToolActivity]:
    found = [event.data for event in events if isinstance(event.data, ToolActivity)]
    return [activity for activity in found if phase in (None, activity.phase)]
