"""Micro services that are tools without having been registered."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import InvalidRequest, Permanent
from sidecar.models.subjects import Subjects
from sidecar.tool_registry.discovery import endpoints_of, entry_from_service
from tests.support.replica import Bench, bench
from tests.support.work import checks_here, now

SUBJECT = "llm.v1.call.shared.orders.1_2_0"
SAID: dict[str, Any] = {"description": "Looks up.", "input_schema": {"type": "object"}}
SUBJECTS = Subjects()


def service(subject: str = SUBJECT, said: Any = SAID, **metadata: str) -> bytes:
    """What a service says of itself, as nats.micro writes it."""
    text = said if isinstance(said, str) else json.dumps(said)
    endpoint = {
        "name": "e",
        "subject": subject,
        "queue_group": "q",
        "metadata": {"llm.tool": text, "owner": "us", **metadata},
    }
    body = {
        "name": "orders-service",
        "id": "1",
        "version": "0.0.1",
        "metadata": None,
        "type": "io.nats.micro.v1.info_response",
        "description": "",
        "endpoints": [
            {"name": "plain", "subject": "orders.plain", "queue_group": "q", "metadata": None},
            endpoint,
        ],
    }
    return msgspec.json.encode(body)


def found(world: Bench, ref: str = "orders", tenant: str = "acme") -> str | None:
    (replica,) = world.replicas
    try:
        return replica.tools.find(tenant, ref).subject
    except Permanent:
        return None


async def test_a_service_is_a_tool_of_its_scope_without_registration() -> None:
    async with bench() as world:
        await world.announce(service(), b"garbage", b"{}", b'{"endpoints": 5}', b"\xff")
        await world.replica()
        await world.clock.advance(1.5)
        tool = world.replicas[0].tools.find("acme", "orders@^1")
        assert (tool.subject, tool.scope, tool.version, tool.discovered) == (SUBJECT, "shared", "1.2.0", True)
        listed = json.loads((await world.ask("tools", "shared", "list")).payload)["tools"]
        assert [entry["name"] for entry in listed] == ["orders"]
        assert listed[0]["expires"] is not None


async def test_a_service_that_answers_no_more_is_forgotten() -> None:
    async with bench() as world:
        await world.announce(service())
        await world.replica()
        await world.clock.advance(30)
        assert found(world) == SUBJECT
        await world.announce()
        await world.clock.advance(10)
        assert found(world) == SUBJECT
        await world.clock.advance(20)
        assert found(world) is None


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [((), ()), (("shared",), ("shared",)), (("acme",), ("acme",)), (("*",), ("shared", "acme"))],
)
async def test_only_allowed_scopes_are_looked_at(allowed: tuple[str, ...], seen: tuple[str, ...]) -> None:
    async with bench() as world:
        await world.announce(service(), service("llm.v1.call.acme.mine.1_0_0"))
        await world.replica(tools={"discovery": allowed})
        await world.clock.advance(2)
        tools = {"shared": found(world), "acme": found(world, "mine")}
        assert tuple(scope for scope, subject in tools.items() if subject) == seen
        assert found(world, "mine", tenant="globex") is None
        asked = [operation for operation in world.bus.operations if operation.name == "tools.services"]
        assert bool(asked) == bool(allowed)


async def test_a_policy_that_allows_a_scope_no_more_counts_at_once() -> None:
    async with bench() as world:
        await world.announce(service())
        replica = await world.replica()
        await world.clock.advance(2)
        assert found(world) == SUBJECT
        policy = replica._policy.now
        replica.apply(policy.model_copy(update={"tools": policy.tools.model_copy(update={"discovery": ()})}))
        await world.clock.advance(6)
        assert found(world) is None


async def test_what_is_registered_hides_what_is_discovered() -> None:
    async with bench() as world:
        await world.announce(service())
        replica = await world.replica()
        await world.clock.advance(2)
        body = {"name": "orders", "version": "1.2.0", "ttl_s": 10, **SAID, "description": "Registered."}
        await world.ask("tools", "shared", "register", payload=msgspec.json.encode(body))
        assert replica.tools.find("acme", "orders").description == "Registered."
        await world.clock.advance(11)
        assert replica.tools.find("acme", "orders").description == "Looks up."


async def test_of_two_services_that_differ_the_first_one_counts() -> None:
    async with bench() as world:
        await world.announce(service(), service(said={**SAID, "description": "Another."}))
        replica = await world.replica()
        await world.clock.advance(12)
        assert replica.tools.find("acme", "orders").description == "Looks up."


@pytest.mark.parametrize(
    "subject",
    [
        "orders.plain",
        "llm.v1.sys.grant.one",
        "llm.v1.request.acme.batch",
        "llm.v1.call.shared.orders",
        "llm.v1.call.shared.orders.1_2_0.x",
        "llm.v1.call.shared.orders.*",
        "llm.v1.call.*.orders.1_2_0",
        "llm.v1.call.shared.>",
        "llm.v1.call.shared.orders.1_2",
        "llm.v1.call.shared.or ders.1_2_0",
        "other.v1.call.shared.orders.1_2_0",
        "$JS.API.STREAM.DELETE.LLM_REQ",
        "",
    ],
)
def test_no_service_aims_the_sidecar_at_other_subjects(subject: str) -> None:
    with pytest.raises((InvalidRequest, ValueError)):
        now(entry_from_service(subject, json.dumps(SAID), SUBJECTS, checks_here()))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "orders",
        "[]",
        "{}",
        {**SAID, "name": "refunds"},
        {**SAID, "version": "2.0.0"},
        {**SAID, "subject": "llm.v1.sys.x"},
        {**SAID, "input_schema": {"type": "objekt"}},
        {**SAID, "input_schema": None},
        {**SAID, "description": "x" * 5_000},
        {**SAID, "input_schema": {"type": "object", "$comment": "x" * 70_000}},
    ],
)
def test_what_a_service_says_is_checked_like_a_registration(said: Any) -> None:
    text = said if isinstance(said, str) else json.dumps(said)
    with pytest.raises((InvalidRequest, ValueError)):
        now(entry_from_service(SUBJECT, text, SUBJECTS, checks_here()))


def test_name_and_version_may_be_said_again() -> None:
    text = json.dumps(
        {**SAID, "name": "orders", "version": "1.2.0", "timeout_s": 5, "idempotent": True, "ttl_s": 9}
    )
    entry = now(entry_from_service(SUBJECT, text, SUBJECTS, checks_here()))
    assert (entry.info.timeout_s, entry.info.idempotent, entry.info.discovered) == (5, True, True)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_answers_are_read(answers: list[bytes]) -> None:
    assert list(endpoints_of(answers)) == []


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_subject_and_metadata_are_refused_or_derived(subject: str, text: str) -> None:
    for name in (subject, f"llm.v1.call.{subject}"):
        with pytest.raises((InvalidRequest, ValueError)):
            now(entry_from_service(name, text, SUBJECTS, checks_here()))
