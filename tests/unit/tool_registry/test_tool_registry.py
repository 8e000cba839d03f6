"""The registry in virtual time: what providers may do, what jobs find, what every replica sees."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sidecar.errors import Permanent
from sidecar.models.base import epoch
from sidecar.ports.bus import Reply
from sidecar.ports.tools import ToolKey
from sidecar.replica import Replica
from sidecar.tool_registry.publishing import MOST_REGISTRATION_BYTES, RegistryLimits
from tests.support.garbage import GARBAGE
from tests.support.jetstream.faults import Delivery, Fault, Operation
from tests.support.replica import Bench, bench

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}


@pytest.fixture
async def world() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


def registration(name: str = "orders", version: str = "1.2.0", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "description": "Looks up.",
        "input_schema": SCHEMA,
        "ttl_s": 30,
        **more,
    }


async def ask(world: Bench, verb: str, body: Any, scope: str = "acme") -> Reply:
    payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return await world.ask("tools", scope, verb, payload=payload)


async def register(
    world: Bench, name: str = "orders", version: str = "1.2.0", *, scope: str = "acme", **more: Any
) -> Any:
    reply = await ask(world, "register", registration(name, version, **more), scope)
    assert "Nats-Service-Error" not in reply.headers, reply
    return json.loads(reply.payload)


async def refusal(world: Bench, verb: str, body: Any, scope: str = "acme") -> tuple[str, str]:
    """The code and the path of a refusal."""
    reply = await ask(world, verb, body, scope)
    error = json.loads(reply.payload)["error"]
    assert reply.headers["Nats-Service-Error"]
    return error["code"], error["details"].get("path", "")


def found(replica: Replica, ref: str = "orders", tenant: str = "acme") -> str | None:
    """`scope.version` of what a job would call; None if nothing."""
    try:
        tool = replica.tools.find(tenant, ref)
    except Permanent as e:
        return None if e.code == "unknown_tool" else e.code
    return f"{tool.scope}.{tool.version}"


async def test_a_registered_tool_is_found_by_every_replica_until_its_time_is_over(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    reply = await register(world)
    assert reply["subject"] == "llm.v1.call.acme.orders.1_2_0"
    assert reply["expires"] == "2027-01-15T08:00:30.000Z"
    for replica in (one, two):
        tool = replica.tools.find("acme", "orders@^1")
        assert (tool.subject, tool.expires) == (reply["subject"], reply["expires"])
        assert tool.input_schema == SCHEMA
    await world.clock.advance(29.9)
    assert found(one) == found(two) == "acme.1.2.0"
    await world.clock.advance(0.2)
    assert found(one) is found(two) is None


async def test_a_renewal_goes_on_from_now_and_says_until_when(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    await register(world)
    await world.clock.advance(20)
    assert (await register(world))["expires"] == "2027-01-15T08:00:50.000Z"
    await world.clock.advance(29)
    assert found(one) == found(two) == "acme.1.2.0"
    await world.clock.advance(2)
    assert found(one) is found(two) is None


async def test_long_renewals_write_every_other_time_and_never_promise_what_does_not_hold(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    await register(world, ttl_s=90)
    writes = []
    for _ in range(9):
        await world.clock.advance(30)
        before = world.bus.tools.last_seq
        expires = (await register(world, ttl_s=90))["expires"]
        assert {replica.tools.find("acme", "orders").expires for replica in (one, two)} == {expires}
        assert 90 <= epoch(expires) - world.clock.now() <= 153
        await world.clock.advance(1.0)
        writes.append(world.bus.tools.last_seq - before)
        assert epoch(one.tools.find("acme", "orders").expires or "") - world.clock.now() > 119
    assert writes == [1, 0, 1, 0, 1, 0, 1, 0, 1]


async def test_a_renewal_that_cannot_be_written_ahead_is_written_by_the_next(world: Bench) -> None:
    one = await world.replica("one")
    for _ in range(3):
        await register(world, ttl_s=90)
        await world.clock.advance(30)

    def silent(operation: Operation) -> Fault:
        return Fault(lose="request") if operation.name == "tools.put" else Fault()

    world.bus.faults = silent
    assert (await register(world, ttl_s=90))["expires"]
    await world.clock.advance(20)
    assert (await refusal(world, "register", registration(ttl_s=90)))[0] == "internal"
    world.bus.faults = lambda _: Fault()
    assert epoch((await register(world, ttl_s=90))["expires"]) - world.clock.now() == pytest.approx(153, abs=0.1)
    assert found(one) == "acme.1.2.0"


async def test_deregistering_ends_it_for_all_and_is_idempotent(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    await register(world)
    body = {"name": "orders", "version": "1.2.0"}
    replies = [json.loads((await ask(world, "deregister", body)).payload) for _ in range(2)]
    assert [reply["removed"] for reply in replies] == [True, False]
    await world.clock.settle()
    assert found(one) is found(two) is None
    assert (
        json.loads((await ask(world, "deregister", {"name": "x", "version": "1.0.0"})).payload)["removed"] is False
    )
    await register(world)
    assert found(two) == "acme.1.2.0"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"description": "other"}, "description"),
        ({"timeout_s": 5}, "timeout_s"),
        ({"idempotent": True}, "idempotent"),
        ({"input_schema": {**SCHEMA, "required": []}}, "input_schema.required"),
        ({"input_schema": {"type": "object"}}, "input_schema.properties"),
        ({"output_schema": {"type": "object"}}, "output_schema"),
    ],
)
async def test_a_published_version_never_changes_also_after_its_end(
    world: Bench, change: dict[str, Any], path: str
) -> None:
    await world.replica("one")
    await register(world)
    assert await refusal(world, "register", registration(**change)) == ("invalid_request", path)
    await world.clock.advance(40)
    late = await world.replica("late")
    assert await refusal(world, "register", registration(**change)) == ("invalid_request", path)
    await register(world, ttl_s=40)
    assert found(late) == "acme.1.2.0"


async def test_a_published_version_is_forgotten_in_the_end(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.tool_registry.service.REMEMBER_S", 100)
    one = await world.replica("one")
    await register(world)
    await world.clock.advance(120)
    assert (await refusal(world, "register", registration(description="other")))[1] == "description"
    await world.clock.advance(90)
    await register(world, description="other")
    assert one.tools.find("acme", "orders").description == "other"


async def test_new_versions_of_a_line_keep_what_older_ones_promised(world: Bench) -> None:
    one = await world.replica("one")
    promised = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    narrower = {**SCHEMA, "required": ["id", "region"]}
    await register(world, output_schema=promised)
    await world.clock.advance(100)
    assert await refusal(
        world, "register", registration(version="1.3.0", input_schema=narrower, output_schema=promised)
    ) == (
        "invalid_request",
        "input_schema.required",
    )
    assert await refusal(world, "register", registration(version="1.2.1", output_schema={"type": "object"})) == (
        "invalid_request",
        "output_schema.properties.total",
    )
    await register(world, version="1.4.0", output_schema=promised, input_schema={"type": "object"})
    # Between the two: what 1.4.0 takes, 1.3.0 need not; but 1.4.0 has to take what 1.3.0 does.
    await register(world, version="1.3.0", output_schema=promised)
    assert await refusal(
        world, "register", registration(version="1.3.5", output_schema={**promised, "required": ["total", "tax"]})
    ) == ("invalid_request", "output_schema.properties.tax")
    for free in ("2.0.0", "1.5.0-rc.1", "0.1.0"):
        await register(world, version=free, input_schema=narrower)
    assert found(one, "orders@^1") == "acme.1.4.0"
    assert found(one) == "acme.2.0.0"


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"{", "invalid_request", ""),
        (b"\xff\x00", "invalid_request", ""),
        (b"[]", "invalid_request", ""),
        (b"", "invalid_request", ""),
        (registration(name="a.b"), "invalid_request", "name"),
        (registration(name=""), "invalid_request", "name"),
        (registration(version="1.2"), "invalid_request", "version"),
        (registration(version="1.2.3-01"), "invalid_request", "version"),
        (registration(description=""), "invalid_request", "description"),
        (registration(ttl_s=0), "invalid_request", "ttl_s"),
        (registration(subject="llm.v1.sys.x"), "invalid_request", "subject"),
        (registration(input_schema={"type": "objekt"}), "invalid_request", "input_schema"),
        (registration(input_schema={"type": "string"}), "invalid_request", "input_schema"),
        (
            registration(input_schema={"type": "object", "$ref": "http://example.com/x"}),
            "invalid_request",
            "input_schema",
        ),
        (registration(output_schema={"pattern": "("}), "invalid_request", "output_schema"),
        (
            registration(
                description="é" * 4000, input_schema={**SCHEMA, "$comment": "x" * MOST_REGISTRATION_BYTES}
            ),
            "payload_too_large",
            "",
        ),
    ],
)
async def test_what_is_no_registration_is_refused(world: Bench, body: Any, code: str, path: str) -> None:
    one = await world.replica("one")
    found_code, found_path = await refusal(world, "register", body)
    assert found_code == code
    assert not path or found_path.startswith(path)
    assert one.tools.catalogue.live_count(world.clock.now()) == 0
    assert world.bus.tools.last_seq == 0


async def test_schemas_whose_references_double_at_each_step_are_refused(world: Bench) -> None:
    await world.replica("one")
    definitions: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(40)
    }
    schema = {"type": "object", "$ref": "#/$defs/d0", "$defs": {**definitions, "d40": {}}}
    assert await refusal(world, "register", registration(input_schema=schema)) == (
        "invalid_request",
        "input_schema",
    )


async def test_a_scope_is_the_subjects(world: Bench) -> None:
    one = await world.replica("one")
    await register(world, scope="globex")
    assert found(one) is None
    assert found(one, tenant="globex") == "globex.1.2.0"
    assert json.loads((await ask(world, "list", {})).payload)["tools"] == []
    assert (
        json.loads((await ask(world, "deregister", {"name": "orders", "version": "1.2.0"})).payload)["removed"]
        is False
    )
    assert found(one, tenant="globex") == "globex.1.2.0"


async def test_a_tenants_own_tool_hides_the_shared_one_whatever_its_version(world: Bench) -> None:
    one = await world.replica("one")
    await register(world, version="3.0.0", scope="shared", ttl_s=600)
    assert found(one) == "shared.3.0.0"
    assert found(one, tenant="shared") == "shared.3.0.0"
    await register(world, version="1.0.0")
    assert found(one) == "acme.1.0.0"
    assert found(one, "orders@^3") is None
    assert found(one, tenant="globex") == "shared.3.0.0"
    await world.clock.advance(31)
    assert found(one) == "shared.3.0.0"


async def test_what_cannot_be_found_says_what_there_is(world: Bench) -> None:
    one = await world.replica("one", tenants={"acme": {}, "poor": {"tools": ["search"]}})
    with pytest.raises(Permanent, match="no tool is live"):
        one.tools.find("acme", "orders")
    await register(world)
    await register(world, "search", scope="shared")
    with pytest.raises(Permanent, match=r"fits 'orders@\^2': tenant 'acme' has 1\.2\.0") as caught:
        one.tools.find("acme", "orders@^2")
    assert caught.value.details == {"tool": "orders", "live": ["1.2.0"]}
    with pytest.raises(Permanent, match="live tools are orders, search"):
        one.tools.find("acme", "nothing")
    with pytest.raises(Permanent, match="not a range"):
        one.tools.find("acme", "orders@newest")
    assert found(one, "search", "poor") == "shared.1.2.0"
    with pytest.raises(Permanent, match="it may use: search") as denied:
        one.tools.find("poor", "orders")
    assert denied.value.code == "tenant_denied"


async def test_the_list_is_live_tools_in_order_and_in_pages(world: Bench) -> None:
    await world.replica("one", tenants={"acme": {"tools": ["b", "s"]}})
    for name, version in (("b", "1.0.0"), ("a", "1.9.0"), ("a", "1.10.0")):
        await register(world, name, version)
    for name in ("a", "s", "t"):
        await register(world, name, "5.0.0", scope="shared")

    async def listed(**asked: Any) -> list[str]:
        names: list[str] = []
        while True:
            page = json.loads((await ask(world, "list", asked)).payload)
            names += [f"{tool['scope']}.{tool['name']}.{tool['version']}" for tool in page["tools"]]
            if page["cursor"] is None:
                return names
            asked = {**asked, "cursor": page["cursor"]}

    own = ["acme.a.1.10.0", "acme.a.1.9.0", "acme.b.1.0.0"]
    assert await listed() == await listed(limit=1) == await listed(limit=2) == own
    assert await listed(name="a") == own[:2]
    assert await listed(shared=True, limit=2) == [*own, "shared.s.5.0.0"]
    assert await refusal(world, "list", {"cursor": "x"}) == ("invalid_request", "cursor")
    assert await refusal(world, "list", {"nonsense": 1}) == ("invalid_request", "nonsense")
    await world.clock.advance(31)
    assert await listed(shared=True) == []


async def test_a_long_list_comes_in_pages_that_fit_a_message(world: Bench) -> None:
    await world.replica("one")
    for i in range(20):
        await register(world, f"t{i}", input_schema={**SCHEMA, "$comment": "x" * 60_000})
    reply = await ask(world, "list", {})
    assert len(reply.payload) < 1024 * 1024
    assert 0 < len(json.loads(reply.payload)["tools"]) < 20
    assert json.loads(reply.payload)["cursor"]


@pytest.mark.parametrize("token", ["a$b", "*", "x" * 65])
async def test_only_names_are_scopes(world: Bench, token: str) -> None:
    await world.replica("one")
    for verb in ("register", "deregister", "list"):
        assert await refusal(world, verb, registration(), token) == ("invalid_request", "subject.scope")


async def test_a_scope_cannot_fill_the_registry(world: Bench) -> None:
    one = await world.replica("one")
    one.tools._limits = RegistryLimits(live_per_scope=3, versions_per_scope=4)
    for name in ("a", "b", "c"):
        await register(world, name)
    assert (await refusal(world, "register", registration("d")))[0] == "quota_exceeded"
    await register(world, "d", scope="globex")
    await register(world, "a")
    await ask(world, "deregister", {"name": "b", "version": "1.2.0"})
    await world.clock.advance(1)
    await ask(world, "deregister", {"name": "a", "version": "1.2.0"})
    await register(world, "d")
    # Four are kept now, the oldest of those that do not live makes room.
    await register(world, "e")
    kept = {entry.info.name for entry in one.tools.catalogue.published("acme")}
    assert kept == {"a", "c", "d", "e"}
    await ask(world, "deregister", {"name": "c", "version": "1.2.0"})
    await register(world, "b", description="forgotten, so it may be another")


async def test_a_scope_cannot_take_more_bytes_than_it_may(world: Bench) -> None:
    one = await world.replica("one")
    one.tools._limits = RegistryLimits(bytes_per_scope=3_000)
    await register(world, "a", description="x" * 2_000)
    assert (await refusal(world, "register", registration("b", description="x" * 2_000)))[0] == "quota_exceeded"
    assert one.tools.catalogue.usage("acme").versions == 1
    await world.clock.advance(31)
    await register(world, "b", description="x" * 2_000)
    assert one.tools.catalogue.usage() == one.tools.catalogue.usage("acme")
    assert one.tools.catalogue.usage().versions == 1


async def test_a_replica_that_missed_a_change_catches_up_within_a_second(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")

    def deaf(delivery: Delivery) -> tuple[float, ...]:
        return () if delivery.replica == "two" and ".sys.tool." in delivery.subject else (0.0,)

    world.bus.deliveries = deaf
    await register(world)
    assert (found(one), found(two)) == ("acme.1.2.0", None)
    await world.clock.advance(1.1)
    assert found(two) == "acme.1.2.0"
    await register(world, version="1.3.0")
    world.bus.deliveries = lambda _: (0.0,)
    await register(world, version="1.4.0")
    await world.clock.settle()
    await world.clock.advance(1.1)
    assert found(two, "orders@1.3.0") == "acme.1.3.0"


async def test_a_replica_that_was_cut_off_sees_all_when_it_is_back(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    await register(world, "gone", ttl_s=600)
    world.bus.partition("two")
    await register(world)
    await ask(world, "deregister", {"name": "gone", "version": "1.2.0"})
    await world.clock.advance(12)
    assert (found(two), found(two, "gone")) == (None, "acme.1.2.0")
    world.bus.heal("two")
    await world.clock.advance(6.2)
    assert (found(two), found(two, "gone")) == ("acme.1.2.0", None)
    assert found(one) == "acme.1.2.0"


async def test_a_replica_that_starts_without_the_bus_waits_for_it(world: Bench) -> None:
    await world.replica("one")
    await register(world, ttl_s=600)
    until = world.clock.now() + 40

    def silent(operation: Operation) -> Fault:
        is_lost = operation.replica == "two" and operation.name.startswith("tools.") and world.clock.now() < until
        return Fault(lose="request") if is_lost else Fault()

    world.bus.faults = silent
    two = await world.replica("two")
    assert world.clock.now() >= until
    assert found(two) == "acme.1.2.0"


async def test_tools_that_nobody_could_renew_get_a_moment_to_come_back(world: Bench) -> None:
    one = await world.replica("one")
    await register(world)
    await register(world, "long", ttl_s=600)
    await register(world, "left")
    await ask(world, "deregister", {"name": "left", "version": "1.2.0"})
    world.bus.partition("one")
    await world.clock.advance(120)
    assert found(one) is None
    world.bus.heal("one")
    await world.clock.advance(7)
    assert found(one) == "acme.1.2.0"
    assert found(one, "left") is None
    # Who goes now has gone, and who does not come back is forgotten.
    await ask(world, "deregister", {"name": "long", "version": "1.2.0"})
    assert found(one, "long") is None
    await world.clock.advance(31)
    assert found(one) is None
    await register(world)
    assert found(one) == "acme.1.2.0"


async def test_two_providers_at_once_through_two_replicas_both_succeed(world: Bench) -> None:
    one, two = await world.replica("one"), await world.replica("two")
    store = (await world.outside()).tools
    await register(world)
    entry = one.tools.catalogue.get(ToolKey("acme", "orders", "1.2.0"))
    assert entry is not None
    # Somebody wrote, and nobody has heard of it yet.
    world.bus.deliveries = lambda delivery: () if ".sys.tool." in delivery.subject else (0.0,)
    await store.put(entry.key, entry.document, expires=entry.expires + 1, revision=entry.revision, keep_s=100)
    await world.clock.advance(0.2)
    assert (await register(world, ttl_s=50))["expires"] > "2027-01-15T08:00:50"
    await store.put(ToolKey("acme", "new", "1.0.0"), b'{"broken"', expires=entry.expires, revision=0, keep_s=100)
    await world.clock.advance(1.5)
    assert found(two) == "acme.1.2.0"
    assert found(two, "new") is None


async def test_a_bucket_made_anew_is_an_empty_registry(world: Bench) -> None:
    one = await world.replica("one")
    await register(world, ttl_s=600)
    await register(world, "search", ttl_s=600)
    world.bus.tools.__init__(world.bus.tools.config, world.clock.now)  # type: ignore[misc]
    await world.clock.advance(1.1)
    assert found(one) is None
    await register(world, ttl_s=600)
    assert found(one) == "acme.1.2.0"
    assert found(one, "search") is None


ORDERS = "$KV.LLM_TOOL.acme.orders.1_2_0"


def write_over(world: Bench, subject: str = ORDERS, payload: bytes = b'{"stream":"LLM_REQ","seq":1}') -> None:
    world.bus.write(subject, payload)


@pytest.mark.parametrize("replicas", [1, 3])
async def test_what_strangers_write_over_a_tool_is_written_over_by_what_replicas_know(
    world: Bench, replicas: int
) -> None:
    everybody = [await world.replica(f"r{i}") for i in range(replicas)]
    expires = (await register(world))["expires"]
    for payload in GARBAGE.values():
        if payload:
            write_over(world, payload=payload)
            await world.clock.advance(0.2)
            assert {found(replica) for replica in everybody} == {"acme.1.2.0"}
    late = await world.replica("late")
    assert late.tools.find("acme", "orders").expires == expires
    assert len(list(world.bus.tools.find(ORDERS))) == 1
    await world.clock.advance(31)
    assert found(late) is None


async def test_planted_tools_are_taken_away(world: Bench) -> None:
    write_over(world, "$KV.LLM_TOOL.shared.planted.1_0_0")
    one = await world.replica("one")
    write_over(world, "$KV.LLM_TOOL.shared.orders.9_0_0")
    await world.clock.advance(2)
    assert found(one) is None
    assert list(world.bus.tools.find("$KV.LLM_TOOL.>")) == []


async def test_a_tool_that_was_written_over_unheard_is_written_again(world: Bench) -> None:
    one = await world.replica("one")
    await register(world)
    world.bus.tools.store(ORDERS, b"garbage")
    await world.clock.advance(2)
    assert found(one) == found(await world.replica("late")) == "acme.1.2.0"


async def test_a_flood_of_foreign_writes_is_mended_in_the_end(world: Bench) -> None:
    one = await world.replica("one")
    await register(world)
    for i in range(300):
        write_over(world, f"$KV.LLM_TOOL.shared.t{i}.1_0_0")
        write_over(world)
    await world.clock.advance(15)
    assert found(one) == "acme.1.2.0"
    assert len(list(world.bus.tools.find("$KV.LLM_TOOL.>"))) == 1


async def test_a_renewal_is_taken_whatever_lies_over_the_version(world: Bench) -> None:
    one = await world.replica("one")
    await register(world)
    await world.clock.advance(10)
    world.bus.tools.store(ORDERS, b"garbage")
    assert (await register(world))["expires"] == "2027-01-15T08:00:40.000Z"
    assert found(one) == "acme.1.2.0"
