"""Every place a stranger's text can stand in goes through the filters, whatever kind of filter it is."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from sidecar.errors import ModelFailed, Permanent
from sidecar.models.call import ModelReply
from sidecar.models.content import OtherBlock, ReasoningBlock, TextBlock, ToolUseBlock
from sidecar.models.filtering import FilterContext, Filtered
from sidecar.models.result import Usage
from sidecar.response_formatter.filters import making
from sidecar.telemetry.logs import JsonFormatter
from tests.support.jetstream.server import FakeJetStream
from tests.support.replica import Bench, bench
from tests.support.scripted_model import ScriptedModel, Turn, fails, reply_of, says
from tests.support.tool_jobs import Providers, call, results
from tests.support.virtual_time import VirtualClock

ON = ["input", "output", "tools"]
CANARY = re.compile(r"canary-[a-z]+|8675309\d\d")
RULES = {"look": {"kind": "blocklist", "options": {"patterns": [r"canary-[a-z]+", r"8675309\d\d"], "on": ON}}}
JUDGES = {"look": {"kind": "canaries", "options": {"on": ON}}}


class Canaries:
    """A filter of one's own that judges whole texts."""

    segment_chars = 400

    async def apply(self, text: str, context: FilterContext) -> Filtered:
        shown, count = CANARY.subn("[PATTERN]", text)
        return Filtered(text=shown, kinds={"pattern": count} if count else {})


@pytest.fixture
def a_filter_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "canaries"

        def load(self) -> Any:
            return lambda options: Canaries()

    class Points(list[Any]):
        names = frozenset({"canaries"})

    monkeypatch.setattr(making, "entry_points", lambda group: [Point()])
    monkeypatch.setattr("sidecar.config.filters.entry_points", lambda group: Points())


class Published:
    """What replicas have published: subject, header, payload. What goes to tools and what the journal keeps is
    the conversation itself, and apart."""

    def __init__(self, bus: FakeJetStream, monkeypatch: pytest.MonkeyPatch, mine: set[str]) -> None:
        self.seen: list[tuple[str, bytes]] = []
        publish = bus._published

        def record(peer: Any, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
            if peer.host.replica in mine:
                self.seen.append((subject.decode(), header + payload))
            publish(peer, subject, reply, header, payload)

        monkeypatch.setattr(bus, "_published", record)

    def leaks(self) -> list[tuple[str, bytes]]:
        return [
            (subject, data)
            for subject, data in self.seen
            if CANARY.search(data.decode("utf-8", "replace")) and not is_conversation(subject)
        ]


def is_conversation(subject: str) -> bool:
    return subject.endswith(".journal") or ".v1.call." in subject


def stored_leaks(b: Bench) -> list[tuple[str, bytes]]:
    """All that streams and buckets hold, but what clients and providers sent themselves."""
    own = ("LLM_REQ", "KV_LLM_TOOL")
    return [
        (entry.subject, entry.header + entry.payload)
        for name, stream in b.bus.api.streams.items()
        if name not in own
        for entry in stream.find()
        if CANARY.search((entry.header + entry.payload).decode("utf-8", "replace"))
        and not is_conversation(entry.subject)
    ]


def turns(clock: VirtualClock) -> ScriptedModel:
    """Three turns: a call that fails, calls of tools, an answer that has a canary wherever one can stand."""
    names = iter("abcdefghijklmnopqrstuvwxyz")

    def one() -> str:
        return f"canary-{next(names)}"

    tools = Turn(
        reply=ModelReply(
            content=(
                TextBlock(text=f"I look {one()} up"),
                ReasoningBlock(text=f"thinking of {one()}", signature="c2ln"),
                call("lookup", f"use-{one()}", who=one(), number=867530911),
                call("broken", "use-broken"),
                call(one(), "use-unknown"),
            ),
            stop_reason="tool_use",
            raw_stop_reason="tool_use",
            usage=Usage(input_tokens=5, output_tokens=5),
            warnings=(f"a part of the answer was not known: {one()}",),
        )
    )
    last = Turn(
        reply=ModelReply(
            content=(
                TextBlock(text=f"Here is {one()}."),
                OtherBlock(value={one(): [one(), 867530912]}),
                ToolUseBlock(id="use-own", name="own", input={one(): {"deep": one()}}),
            ),
            stop_reason="tool_use",
            raw_stop_reason="tool_use",
            usage=Usage(input_tokens=5, output_tokens=5),
            warnings=(f"odd: {one()}",),
        )
    )
    failure = fails(ModelFailed(f"Bedrock says {one()}", details={"reason": one()}))
    return ScriptedModel(clock, [failure, tools, last])


async def provide(b: Bench) -> None:
    providers = Providers(b)
    await providers.add("lookup", lambda _: {"canary-zz": ["canary-zy", 867530913], "n": {"canary-zx": True}})
    await providers.add("broken", raw=b"canary-zw is no JSON")


@pytest.mark.parametrize("filters", [RULES, JUDGES], ids=["rules", "judges"])
@pytest.mark.usefixtures("a_filter_of_ones_own")
async def test_a_canary_in_every_place_is_nowhere_in_what_leaves(
    filters: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = VirtualClock()
    model = turns(clock)
    async with bench(model) as b:
        with caplog.at_level(logging.DEBUG, logger="sidecar"):
            published = Published(b.bus, monkeypatch, {"one"})
            await b.replica(filters=filters)
            await provide(b)
            own = {"name": "own", "input_schema": {"type": "object"}}
            job = await b.submit(stream=True, filters=["look"], tools=["lookup", "broken", own])
            result = await b.result(job)
            told = [
                await b.ask("get", "acme", job),
                await b.ask("jobs", "acme"),
                await b.ask("replay", "acme", job),
            ]
        events = await b.events(job)
        assert not published.leaks()
        assert not stored_leaks(b)
        assert not [reply for reply in told if CANARY.search(reply.payload.decode())]
        formatted = [JsonFormatter().format(record) for record in caplog.records]
        assert not [line for line in formatted if CANARY.search(line)]
    assert result.state == "succeeded"
    assert len(model.calls) == 3
    # What tools gave is kept from the model as well; what it thought goes back as it signed it.
    assert not CANARY.search(msgspec.json.encode([block.content for block in results(model.calls[-1])]).decode())
    assert len(events) > 8
    assert {report.on for report in result.filters} == {"input", "output"}


@pytest.mark.parametrize("escape", ["\\u0040", "@"])
async def test_a_structured_output_that_is_blocked_is_withheld_and_said(escape: str) -> None:
    configured = {"pii": {"kind": "pii", "action": "block"}}
    said = f'{{"mail": "jane.doe{escape}example.com"}}'
    async with bench(ScriptedModel(VirtualClock(), default=says(said, pieces=4, delta_s=0.1))) as b:
        await b.replica(filters=configured)
        output = {"schema": {"type": "object"}}
        result = await b.result(job := await b.submit(filters=["pii"], output=output, stream=True))
        events = await b.events(job)
    assert (result.state, result.stop_reason) == ("failed", "content_filtered")
    assert result.error is not None
    assert (result.error.code, result.error.details) == ("guardrail_blocked", {"filter": "pii", "kind": "email"})
    assert not [event for event in events if b"jane.doe" in msgspec.json.encode(event)]


async def test_a_block_of_an_unknown_sort_that_is_blocked_withholds_the_answer() -> None:
    configured = {"pii": {"kind": "pii", "action": "block"}}
    blocks = (TextBlock(text="fine"), OtherBlock(value={"x": ["jane.doe@example.com"]}))
    async with bench(ScriptedModel(VirtualClock(), default=Turn(reply=reply_of(blocks, "end_turn")))) as b:
        await b.replica(filters=configured)
        result = await b.result(await b.submit(filters=["pii"]))
    assert (result.state, result.stop_reason, result.output.content) == ("succeeded", "content_filtered", ())
    assert [(report.action, report.kinds) for report in result.filters] == [("block", {"email": 1})]


CONVERSATION = [
    {"role": "user", "content": "who is it?"},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t1", "name": "who", "input": {"card": 4111111111111111}}],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "t1",
                "content": [
                    {"type": "json", "value": {"jane.doe@example.com": {"card": 4111111111111111, "age": 42}}}
                ],
            }
        ],
    },
]


async def test_numbers_and_names_of_values_in_the_input_are_kept_from_the_model() -> None:
    configured = {"pii": {"kind": "pii", "options": {"on": ["input"]}}}
    model = ScriptedModel(VirtualClock())
    tools = [{"name": "who", "description": "Ask jane.doe@example.com", "input_schema": {"type": "object"}}]
    async with bench(model) as b:
        await b.replica(filters=configured)
        result = await b.result(await b.submit(filters=["pii"], messages=CONVERSATION, tools=tools))
    (asked,) = model.calls
    assert "4111" not in (said := msgspec.json.encode((asked.messages, asked.tools)).decode())
    assert "jane.doe" not in said
    assert asked.messages[1].content[0].input == {"card": "[CARD]"}  # type: ignore[union-attr]
    (part,) = asked.messages[2].content[0].content  # type: ignore[union-attr]
    assert part.value == {"[EMAIL]": {"card": "[CARD]", "age": 42}}  # type: ignore[union-attr]
    (report,) = result.filters
    assert (report.on, report.kinds) == ("input", {"card": 2, "email": 2})


@pytest.mark.parametrize(("at", "path"), [(1, "messages[1].content[0].input.card"), (2, "[0].value.jane.doe@ex")])
async def test_a_number_or_a_name_in_the_input_can_be_blocked(at: int, path: str) -> None:
    configured = {"pii": {"kind": "pii", "action": "block", "options": {"on": ["input"]}}}
    model = ScriptedModel(VirtualClock())
    messages = msgspec.json.decode(msgspec.json.encode(CONVERSATION))
    if at == 2:
        messages[1]["content"][0]["input"] = {}
    async with bench(model) as b:
        await b.replica(filters=configured)
        result = await b.result(await b.submit(filters=["pii"], messages=messages))
    assert result.state == "rejected"
    assert result.error is not None
    assert result.error.code == "guardrail_blocked"
    assert path in result.error.details["path"] or at == 2
    assert model.calls == []


async def test_what_a_registered_tool_gave_can_be_blocked_before_the_model_sees_it() -> None:
    configured = {
        "look": {**RULES["look"], "action": "block", "options": {"patterns": ["canary"], "on": ["input"]}}
    }
    model = ScriptedModel(VirtualClock(), [Turn(reply=reply_of((call("lookup", "t1"),), "tool_use"))])
    async with bench(model) as b:
        await b.replica(filters=configured)
        await provide(b)
        result = await b.result(await b.submit(filters=["look"], tools=["lookup"]))
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.code == "guardrail_blocked"
    assert len(model.calls) == 1


async def test_an_error_that_cannot_be_judged_says_its_code_alone(
    monkeypatch: pytest.MonkeyPatch, a_filter_of_ones_own: None
) -> None:
    async def apply(self: Canaries, text: str, context: FilterContext) -> Filtered:
        raise Permanent("no judge", code="access_denied")

    monkeypatch.setattr(Canaries, "apply", apply)
    async with bench(ScriptedModel(VirtualClock(), default=fails(ModelFailed("canary-a")))) as b:
        await b.replica(filters=JUDGES)
        result = await b.result(
            job := await b.submit(filters=["look"], messages=[{"role": "user", "content": "hi"}])
        )
        assert not stored_leaks(b)
        assert await b.events(job)
    assert result.state == "failed"
