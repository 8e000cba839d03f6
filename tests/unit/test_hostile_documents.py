"""No bytes of a stranger get past a decoder as anything but the error or the `None` that it promises."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sidecar
from sidecar.cli import exits
from sidecar.cli.main import main
from sidecar.client.results import decode_event as decode_clients_event
from sidecar.cluster import messages
from sidecar.cluster.restarts import NAME, RestartLog
from sidecar.cluster.saving import Saver
from sidecar.config.settings import Policy, load, merge_policy
from sidecar.errors import InvalidRequest, Permanent, StartupError
from sidecar.job_manager.journal import Step
from sidecar.models.codec import decode, decode_event
from sidecar.models.dead_letter import DeadNote
from sidecar.models.event import place_of
from sidecar.models.job import JobState
from sidecar.models.objects import ObjectMeta
from sidecar.models.plain import from_json, from_toml, is_deeper
from sidecar.models.profile import QuotaLimits
from sidecar.models.prompt import PromptTemplate
from sidecar.models.replica import GrantOffer, Heartbeat, NextCallGrant, Ops, Rollcall
from sidecar.models.request import JobRequest
from sidecar.models.tool import ToolRegistration
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import TenantCaps
from tests.support.bus_world import memory_world
from tests.support.garbage import GARBAGE
from tests.support.virtual_time import VirtualClock


def scheduler() -> Scheduler:
    return Scheduler(
        classes={"interactive": 100, "standard": 20, "batch": 1},
        slots=10,
        tenants=lambda name: TenantCaps(),
        limits=lambda pool: QuotaLimits(tokens_per_minute=1_000),
        price=lambda pool, input_tokens, max_tokens: 0.0,
        epoch_offset=0.0,
    )


def read_or_refused(read: Callable[[], Any]) -> Any:
    """What was read, or the text of the refusal. All else is raised."""
    try:
        return read()
    except (InvalidRequest, StartupError) as e:
        return e.message


MESSAGES = (JobRequest, JobState, Step, DeadNote, ObjectMeta, PromptTemplate, ToolRegistration)

garbage = pytest.mark.parametrize("payload", GARBAGE.values(), ids=GARBAGE)


@garbage
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_read_or_refused(payload: bytes, kind: Any) -> None:
    found = read_or_refused(lambda: decode(payload, kind))
    assert isinstance(found, kind) if not isinstance(found, str) else len(found) < 2_000


@garbage
def test_an_event_is_read_or_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_event(payload)
    with pytest.raises(Permanent):
        decode_clients_event(payload)
    assert place_of(payload, subject="x") is None


@garbage
@pytest.mark.parametrize("kind", [Heartbeat, GrantOffer, Ops, NextCallGrant, Rollcall])
def test_what_replicas_say_is_read_or_none(payload: bytes, kind: Any) -> None:
    assert messages.decode(payload, kind) is None or kind is Rollcall


@garbage
@pytest.mark.parametrize("read", [from_json, from_toml])
def test_a_text_is_read_or_refused(payload: bytes, read: Any) -> None:
    found = read_or_refused(lambda: [read(payload.decode("utf-8", "replace"))])
    assert (len(found) < 500 and found.isprintable()) if isinstance(found, str) else not is_deeper(found, 65)


@garbage
def test_a_policy_is_read_or_refused(payload: bytes) -> None:
    found = read_or_refused(lambda: merge_policy(Policy(), payload))
    assert (len(found) < 10_000 and found.isprintable()) if isinstance(found, str) else isinstance(found, Policy)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "0", "-1", "1e300", "'x'", "[]"])
@pytest.mark.parametrize(
    "field",
    [
        "tenants.a.weight",
        "classes.batch.weight",
        "tenants.a.budget_usd_per_day",
        "tenants.a.max_queue",
        "tenants.a.tokens_per_minute",
        "models.claude-sonnet-4-5.price_input",
        "models.claude-sonnet-4-5.burndown",
        "models.claude-sonnet-4-5.tokens_per_minute",
        "job_tools.x.timeout_s",
        "job_tools.x.max_cost_usd",
    ],
)
def test_numbers_that_cannot_be_reckoned_with_are_refused(field: str, number: str, tmp_path: Path) -> None:
    if field.endswith("price_input") and number == "0":
        pytest.skip("a model may be free")
    text = f"{field} = {number}\n"
    with pytest.raises(StartupError, match=field.rpartition(".")[2]):
        merge_policy(Policy(), text.encode())
    file = tmp_path / "sidecar.toml"
    file.write_text(text)
    with pytest.raises(StartupError, match=field.rpartition(".")[2]):
        load(file)


@garbage
@pytest.mark.parametrize("command", [["config", "--check"], ["run", "--config"]])
def test_a_configuration_file_is_read_or_refused(
    payload: bytes, command: list[str], tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_bytes(payload)
    if payload == b"" and command[0] == "run":
        pytest.skip("an empty file is a good one, and would be run")
    assert main([*command, str(file)]) == (exits.OK if payload == b"" else exits.USAGE)
    assert "Traceback" not in capsys.readouterr().err


@garbage
async def test_the_list_of_starts_is_read_or_begun_anew(payload: bytes) -> None:
    async with memory_world() as world:
        world.bus.publish(f"$KV.LLM_CTL.checkpoint.{NAME}", payload)
        census = RestartLog(checkpoints=world.first.checkpoints, clock=world.clock, own="me")
        assert await census.since(0.0) == 1
        other = RestartLog(checkpoints=world.first.checkpoints, clock=world.clock, own="other")
        assert await other.since(0.0) == 2


UNUSED: Any = None


@garbage
def test_a_checkpoint_is_taken_whole_or_not_at_all(payload: bytes) -> None:
    made = scheduler()
    before = made.snapshot(now=0.0)
    Saver(UNUSED, VirtualClock()).restore(made, payload)
    assert made.snapshot(now=0.0) == before


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1e300},
        {"v": None},
        {"pools": {"p": {"level": 1.0}}},
        {"lanes": {"m": {"batch": [["acme", "x", 1.0]]}}},
        {"lanes": {"m": {"batch": [["acme", 1.0, 1.0, 1.0]]}}},
        {"markets": []},
        {"markets": {"m": {"vt": 10**400, "v": 1.0, "classes": {}}}},
        {"version": 2},
        {"epoch": "yesterday"},
    ],
)
def test_a_checkpoint_with_one_bad_part_changes_nothing(change: dict[str, Any]) -> None:
    made = scheduler()
    before = made.snapshot(now=0.0)
    Saver(UNUSED, VirtualClock()).restore(made, json.dumps({**before, **change}).encode())
    assert made.snapshot(now=0.0) == before


def test_a_checkpoint_of_our_own_is_taken() -> None:
    made, payload = scheduler(), msgspec.json.encode({**scheduler().snapshot(now=0.0), "v": 7.0})
    Saver(UNUSED, VirtualClock()).restore(made, payload)
    assert made.backlog.share.v == 7.0


RECURSIVE = {("json", "loads"), ("json", "load"), ("tomllib", "loads"), ("tomllib", "load")}
# The server's own words, files of ours and the emulator's, an endpoint of ours, second readings behind a guard.
MAY_USE_THEM = {
    "adapters/nats/client/wire.py",
    "adapters/nats/embedded.py",
    "cli/drain_command.py",
    "cli/schema_command.py",
    "client/tools/codecs.py",
    "emulator/scenario.py",
    "models/decode_errors.py",
    "models/plain.py",
}


def test_only_one_place_reads_plain_json_and_toml() -> None:
    root = Path(sidecar.__file__).parent
    users = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in RECURSIVE:
                    users.add(file.relative_to(root).as_posix())
    assert users <= MAY_USE_THEM
