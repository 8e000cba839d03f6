"""Stored prompts: filling in, refusals, and jobs bound to the template that they were admitted with."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import InvalidRequest
from sidecar.models.base import FieldError
from sidecar.models.codec import decode
from sidecar.models.content import ImageBlock, Message, TextBlock
from sidecar.models.prompt import (
    LARGEST_RENDERED,
    PromptTemplate,
    Variable,
    key_of,
    parts_of,
    text_digest,
    version_order,
)
from tests.support.garbage import ACKNOWLEDGEMENTS
from tests.support.replica import MODEL, Bench, bench
from tests.support.scripted_model import ScriptedModel, says
from tests.support.virtual_time import VirtualClock

GREET = {
    "messages": [{"role": "user", "content": "Greet {{name}} in {{ city }}."}],
    "variables": {"name": {}, "city": {"required": False, "default": "Oslo"}},
}


def template(**fields: Any) -> PromptTemplate:
    return decode(msgspec.json.encode(fields), PromptTemplate)


def filled(made: PromptTemplate, **given: Any) -> tuple[str | None, tuple[Message, ...]]:
    return made.rendered(made.values(given))


async def put(b: Bench, key: str, document: Any = None) -> int:
    store = (await b.outside()).prompts
    payload = document if isinstance(document, bytes) else msgspec.json.encode(document or GREET)
    revision = await b.clock.run(store.create(key, payload))
    await b.clock.advance(0.2)
    return revision


def asks(name: str = "greet", version: str | None = None, /, **variables: Any) -> dict[str, Any]:
    prompt = {"name": name, "variables": variables or {"name": "Ada"}}
    return {"prompt": prompt if version is None else {**prompt, "version": version}, "model": MODEL}


async def error_of(b: Bench, request: dict[str, Any], tenant: str = "acme") -> tuple[str, str, str]:
    result = await b.result(await b.submit(request, tenant=tenant), tenant=tenant)
    assert result.error is not None
    return result.state, result.error.details.get("path", ""), result.error.message


# Filling in


def test_every_text_is_filled_in_and_nothing_else() -> None:
    made = template(
        system="You know {{city}}.",
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "{{a}}{{a}}"}, {"type": "cache_point"}]},
            {"role": "assistant", "content": "yes, {{a}}"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "go on"},
                    {"type": "image", "format": "png", "source": {"object": "{{a}}"}},
                ],
            },
        ],
        variables={"a": {}, "city": {}},
    )
    system, messages = filled(made, a="x", city="Oslo")
    assert system == "You know Oslo."
    assert messages[0].content[0] == TextBlock(text="xx")
    assert messages[1].content == "yes, x"
    image = messages[2].content[1]
    assert isinstance(image, ImageBlock)
    assert image.source.object == "{{a}}"


@given(st.text(), st.text())
def test_what_a_value_says_is_never_a_template(a: str, b: str) -> None:
    made = template(messages=[{"role": "user", "content": "<{{a}}|{{b}}>"}], variables={"a": {}, "b": {}})
    for value in (a, "{{b}}" + a, "{{{{a}}}}", "\\g<0>", "{{a}}"):
        _, (message,) = filled(made, a=value, b=b)
        assert message.content == f"<{value}|{b}>"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("string", "", ""),
        ("integer", 7, "7"),
        ("number", 1.5, "1.5"),
        ("number", 2, "2"),
        ("boolean", True, "true"),
        ("boolean", False, "false"),
    ],
)
def test_values_are_written_as_json_writes_them(kind: str, value: Any, text: str) -> None:
    made = template(messages=[{"role": "user", "content": "[{{a}}]"}], variables={"a": {"type": kind}})
    assert filled(made, a=value)[1][0].content == f"[{text}]"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "variables.name"),
        ({"name": "a", "nme": "b"}, "variables.nme"),
        ({"name": 3}, "variables.name"),
        ({"name": True}, "variables.name"),
        ({"name": "toolong"}, "variables.name"),
        ({"name": "a", "age": "3"}, "variables.age"),
        ({"name": "a", "age": True}, "variables.age"),
        ({"name": "a", "age": 1.0}, "variables.age"),
    ],
)
def test_variables_that_do_not_fit_are_named(given: dict[str, Any], path: str) -> None:
    made = template(
        messages=[{"role": "user", "content": "{{name}} {{age}}"}],
        variables={"name": {"max_length": 5}, "age": {"type": "integer", "required": False}},
    )
    with pytest.raises(FieldError) as caught:
        made.values(given)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "{{a}}"}]}, "messages[0].content"),
        ({"system": "{{a}}"}, "system"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages[0].role"),
        ({"variables": {"a b": {}}}, ""),
        ({"variables": {"a": {"type": "list"}}}, "variables"),
        ({"variables": {"a": {"default": 3}}}, "variables"),
        ({"variables": {"a": {"type": "integer", "max_length": 3}}}, "variables"),
        ({"code": "import os"}, "code"),
    ],
)
def test_what_is_no_template_is_refused(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template(**{"messages": [{"role": "user", "content": "hi"}], **fields})
    assert path in caught.value.path


def test_a_template_cannot_be_blown_up() -> None:
    made = template(messages=[{"role": "user", "content": "{{a}}" * 10_000}], variables={"a": {}})
    with pytest.raises(FieldError, match="characters long"):
        filled(made, a="x" * (LARGEST_RENDERED // 10_000 + 1))


@given(st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=3), st.sampled_from(["acme", "shared", "a-b_C"]))
def test_keys_tell_scope_name_and_version(numbers: list[int], scope: str) -> None:
    version = ".".join(map(str, numbers))
    assert parts_of(key_of(scope, "greet", version)) == (scope, "greet", version)


def test_versions_are_numbers() -> None:
    assert sorted(["1.10", "2", "1.9.1", "1.2"], key=version_order) == ["1.2", "1.9.1", "1.10", "2"]
    for key in ("a", "a.b", "a.b.x", "a.b.1.2", "a.b.01", "a.*.1", "a.b.1_2_3_4", ".b.1", "a..1"):
        assert parts_of(key) is None
    for bad in ("", "1.", "v1", "latest", "1" * 11, "-1"):
        with pytest.raises(FieldError):
            key_of("acme", "greet", bad)


def test_a_default_may_be_anything_of_its_type() -> None:
    assert Variable(type="boolean", default=False).default is False


# Jobs


async def test_a_job_is_made_of_its_template_and_its_document_says_which() -> None:
    async with bench() as b:
        await b.replica()
        revision = await put(b, "shared.greet.1")
        job = await b.submit(asks())
        result = await b.result(job)
        assert result.state == "succeeded"
        (message,) = b.model.calls[0].messages
        assert message.content == "Greet Ada in Oslo."
        stored = await b.stored(job)
        assert stored is not None
        use = stored.state.prompt
        assert use is not None
        assert (use.scope, use.name, use.version, use.revision) == ("shared", "greet", "1", revision)
        assert use.sha256 == hashlib.sha256(b"Greet Ada in Oslo.").hexdigest()


async def test_the_highest_version_of_the_tenants_own_template_comes_first() -> None:
    async with bench() as b:
        await b.replica()
        for key in ("shared.greet.9", "acme.greet.1_9", "acme.greet.1_10", "globex.greet.3"):
            await put(b, key, {"messages": [{"role": "user", "content": key}]})
        for tenant, request, used in (
            ("acme", {"name": "greet"}, "acme.greet.1_10"),
            ("acme", {"name": "greet", "version": "1.9"}, "acme.greet.1_9"),
            ("acme", {"name": "greet", "version": "1.9.0"}, "acme.greet.1_9"),
            ("initech", {"name": "greet"}, "shared.greet.9"),
        ):
            job = await b.submit({"prompt": request, "model": MODEL}, tenant=tenant)
            assert (await b.result(job, tenant=tenant)).state == "succeeded"
            assert b.model.calls[-1].messages[0].content == used


async def test_the_requests_own_system_prompt_goes_before_the_templates() -> None:
    async with bench() as b:
        await b.replica()
        await put(b, "acme.greet.1", {**GREET, "system": "Be kind to {{name}}."})
        await b.result(await b.submit(asks()))
        await b.result(await b.submit({**asks(), "system": "Be short."}))
        assert [call.system for call in b.model.calls] == ["Be kind to Ada.", "Be short."]


@pytest.mark.parametrize(
    ("request_", "path", "said"),
    [
        (asks("none"), "prompt.name", "no prompt template named 'none'"),
        (asks("greet", "7"), "prompt.version", "it has 1"),
        (asks("greet", "latest"), "prompt.version", "it has 1"),
        (asks(nme="Ada"), "prompt.variables.nme", "it has: name, city"),
        (asks(city="Rome"), "prompt.variables.name", "is missing"),
        (asks(name=3), "prompt.variables.name", "'string'"),
        (asks("broken"), "prompt.name", "is no template"),
        (asks("blank", text=" "), "prompt.variables", "blank"),
    ],
)
async def test_what_does_not_fit_is_refused_with_its_path(request_: Any, path: str, said: str) -> None:
    async with bench() as b:
        await b.replica()
        await put(b, "shared.greet.1")
        await put(b, "shared.broken.1", b'{"messages": "none"}')
        await put(b, "shared.no.key.at.all", b"{}")
        await put(
            b, "shared.blank.1", {"messages": [{"role": "user", "content": "{{text}}"}], "variables": {"text": {}}}
        )
        state, found, message = await error_of(b, request_)
        assert (state, found) == ("rejected", path)
        assert said in message
        assert b.model.calls == []


async def test_another_tenants_template_is_none_of_yours() -> None:
    async with bench() as b:
        await b.replica()
        await put(b, "globex.secret.1")
        assert (await error_of(b, asks("secret")))[1] == "prompt.name"


async def test_a_template_is_there_at_once_and_gone_when_it_is_taken_away() -> None:
    async with bench() as b:
        await b.replica()
        store = (await b.outside()).prompts
        await b.clock.run(store.create("shared.greet.1", msgspec.json.encode(GREET)))
        assert (await b.result(await b.submit(asks()))).state == "succeeded"
        await b.clock.run(store.delete("shared.greet.1"))
        await b.clock.advance(1)
        assert (await error_of(b, asks()))[1] == "prompt.name"


async def test_a_replica_that_heard_nothing_finds_out() -> None:
    async with bench() as b:
        await b.replica()
        b.bus.deliveries = lambda delivery: () if "$KV.LLM_PROMPT" in delivery.subject else (0.0,)
        await put(b, "shared.greet.1")
        assert (await error_of(b, asks()))[1] == "prompt.name"
        await b.clock.advance(20)
        assert (await b.result(await b.submit(asks()))).state == "succeeded"


async def test_a_waiting_job_keeps_the_template_it_was_admitted_with() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=5))) as b:
        await b.replica(scheduler={"slots": 1, "interactive_reserve": 0.0})
        await put(b, "shared.greet.1")
        store = (await b.outside()).prompts
        jobs = [await b.submit(asks(name=f"n{i}")) for i in range(3)]
        await b.clock.advance(1)
        waiting = await b.stored(jobs[-1])
        assert waiting is not None
        assert waiting.state.state == "queued"
        assert waiting.state.prompt is not None
        # A newer version, the old one taken away and written over: none of it is what the job was admitted with.
        other = {"messages": [{"role": "user", "content": "something else {{name}}"}], "variables": {"name": {}}}
        await put(b, "shared.greet.2", other)
        await b.clock.run(store.delete("shared.greet.1"))
        await put(b, "shared.greet.1", other)
        results = [await b.result(job) for job in jobs]
        assert [result.state for result in results] == ["succeeded"] * 3
        assert [str(call.messages[0].content) for call in b.model.calls] == [
            f"Greet n{i} in Oslo." for i in range(3)
        ]
        ended = await b.stored(jobs[-1])
        assert ended is not None
        assert ended.state.prompt == waiting.state.prompt


async def test_a_template_whose_past_is_gone_fails_the_job_and_says_so() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=5))) as b:
        replica = await b.replica(scheduler={"slots": 1, "interactive_reserve": 0.0})
        revision = await put(b, "shared.greet.1")
        jobs = [await b.submit(asks()) for _ in range(2)]
        await b.clock.advance(1)
        leader = replica.requests.leader
        assert leader is not None
        for waiting in leader.reader._opened.values():
            # As where so many wait that what admission found out is not kept of all.
            waiting.plan = None
        b.bus.prompts.delete(revision)
        await put(b, "shared.greet.1", {**GREET, "system": "other"})
        result = await b.result(jobs[-1])
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.details == {"path": "prompt.version"}


async def test_another_replica_goes_on_with_the_same_text() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok", first_s=30))) as b:
        replicas = await b.fleet("one", "two", slots=1)
        await put(b, "shared.greet.1")
        job = await b.submit(asks())
        await b.until(lambda: bool(b.model.calls))
        busy = next(replica for replica in replicas if replica.requests.running)
        await put(
            b, "shared.greet.2", {"messages": [{"role": "user", "content": "new"}], "variables": {"name": {}}}
        )
        b.kill(busy)
        result = await b.result(job)
        assert result.state == "succeeded"
        assert [call.messages[0].content for call in b.model.calls] == ["Greet Ada in Oslo."] * 2
        stored = await b.stored(job)
        assert stored is not None
        assert stored.state.prompt is not None
        assert (stored.state.attempt, stored.state.prompt.version) == (2, "1")


async def test_jobs_without_a_template_ask_nothing_of_the_bucket() -> None:
    async with bench() as b:
        await b.replica()
        before = [o.name for o in b.bus.operations].count("prompts.load")
        await b.result(await b.submit())
        assert [o.name for o in b.bus.operations if o.name.startswith("prompts.")].count("prompts.load") == before


def test_the_hash_is_of_all_texts_in_order() -> None:
    messages = (
        Message(role="user", content="a"),
        Message(role="assistant", content=(TextBlock(text="b"), TextBlock(text="c"))),
    )
    assert text_digest("s", messages) == hashlib.sha256(b"s\na\nb\nc").hexdigest()
    assert text_digest(None, messages[:1]) == hashlib.sha256(b"a").hexdigest()


def write_over(b: Bench, key: str, payload: bytes = ACKNOWLEDGEMENTS["acknowledgement"]) -> None:
    b.bus.write(f"$KV.LLM_PROMPT.{key}", payload)


@pytest.mark.parametrize("payload", ACKNOWLEDGEMENTS.values(), ids=ACKNOWLEDGEMENTS)
async def test_a_planted_template_is_none_and_is_taken_away(payload: bytes) -> None:
    async with bench() as b:
        await b.replica("one")
        await put(b, "shared.greet.1")
        write_over(b, "shared.greet.999", payload)
        assert (await b.result(await b.submit(asks()))).state == "succeeded"
        await b.clock.advance(1)
        assert list(b.bus.prompts.find("$KV.LLM_PROMPT.shared.greet.999")) == []
        await b.replica("two")
        assert (await b.result(await b.submit(asks()))).state == "succeeded"


@pytest.mark.parametrize("times", [1, 9, 30])
async def test_a_template_that_was_written_over_stays_and_is_stored_again(times: int) -> None:
    async with bench() as b:
        await b.replica("one")
        await put(b, "acme.greet.1")
        for _ in range(times):
            write_over(b, "acme.greet.1")
        assert (await b.result(await b.submit(asks()))).state == "succeeded"
        await b.clock.advance(1)
        await b.replica("late")
        entries = list(b.bus.prompts.find("$KV.LLM_PROMPT.acme.greet.1"))
        assert [msgspec.json.decode(entry.payload) for entry in entries] == [GREET]


async def test_a_job_keeps_its_template_though_its_revision_is_gone_and_stored_anew() -> None:
    async with bench(ScriptedModel(VirtualClock(), lambda _: says("hi", first_s=5.0))) as b:
        await b.replica("one", scheduler={"slots": 1, "interactive_reserve": 0.0})
        await put(b, "acme.greet.1")
        first, second = await b.submit(asks()), await b.submit(asks())
        await b.clock.advance(1)
        for _ in range(30):
            write_over(b, "acme.greet.1")
        await b.clock.advance(1)
        assert (await b.result(first)).state == (await b.result(second)).state == "succeeded"


async def test_a_template_taken_away_by_an_operator_is_not_stored_again() -> None:
    async with bench() as b:
        await b.replica("one")
        await put(b, "acme.greet.1")
        await (await b.outside()).prompts.delete("acme.greet.1")
        write_over(b, "acme.greet.1")
        await b.clock.advance(1)
        assert (await error_of(b, asks()))[1] == "prompt.name"


async def test_what_is_long_is_filled_in_apart_and_is_the_same() -> None:
    clock = VirtualClock()
    async with bench(ScriptedModel(clock, default=says("ok"))) as b:
        replica = await b.replica()
        long = {"messages": [{"role": "user", "content": "{{name}} " * 6_000}], "variables": {"name": {}}}
        await put(b, "shared.long.1", long)
        await put(
            b, "shared.short.1", {"messages": [{"role": "user", "content": "{{name}}"}], "variables": {"name": {}}}
        )
        result = await b.result(await b.submit(asks("long", name="x")))
        assert result.state == "succeeded"
        assert b.model.calls[-1].messages[0].content == "x " * 6_000
        assert replica.work.done["fill_in"] >= 1
        done = replica.work.done["fill_in"]
        assert (await b.result(await b.submit(asks("short", name="y")))).state == "succeeded"
        assert replica.work.done["fill_in"] == done
        assert (await b.result(await b.submit(asks("short", name="y" * 300_000)))).state == "succeeded"
        assert b.model.calls[-1].messages[0].content == "y" * 300_000
        assert replica.work.done["fill_in"] > done
        state, path, _ = await error_of(b, asks("long", nobody="x"))
        assert (state, path) == ("rejected", "prompt.variables.nobody")
