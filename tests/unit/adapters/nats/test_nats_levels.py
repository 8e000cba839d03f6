"""What is asked of servers of each line: only fields that they know, and a clear word where one is needed."""

from typing import Any, cast

import pytest

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.batches import stops_on_batches
from sidecar.adapters.nats.streams.levels import (
    check_version,
    fitting,
    known_fields,
    level_of,
    unknown_field,
)
from sidecar.adapters.nats.streams.provision import ensure_stream
from sidecar.adapters.nats.streams.topology import StreamSpec, object_store, streams
from sidecar.config.settings import Settings, TenantPolicy
from sidecar.errors import BusRefused, StartupError
from sidecar.models.subjects import SPEND_STREAM

LEVELS = [1, 2, 3, 4, 5, 6]
SWITCHES_OF_LATER_SERVERS = {
    1: {"allow_msg_counter", "allow_atomic", "allow_msg_schedules", "allow_batched"},
    2: {"allow_batched"},
    3: {"allow_batched"},
}
BUDGET = Settings(tenants={"acme": TenantPolicy(budget_usd_per_day=5.0)})


class Leader:
    """The API of a JetStream leader that knows all fields but `unknown`, in a server's own words."""

    def __init__(self, *unknown: str) -> None:
        self._unknown = unknown
        self.made: dict[str, Any] = {}

    async def api(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if body is None:
            raise NotFound("stream not found")
        for name in body:
            if name in self._unknown:
                raise BusRefused(
                    f'NATS refused {call}: invalid JSON: json: unknown field "{name}"',
                    details={"code": 400, "err_code": 10025},
                )
        self.made = body
        return {"config": body}

    async def ensure(self, spec: StreamSpec) -> None:
        await ensure_stream(cast(Mux, self), spec, adopt=False)


@pytest.mark.parametrize("level", LEVELS)
def test_no_server_is_asked_for_a_field_that_it_does_not_know(level: int) -> None:
    later = SWITCHES_OF_LATER_SERVERS.get(level, set())
    for spec in (*fitting(streams(Settings()), Settings(), level), object_store(Settings(), "acme")):
        assert not later & set(spec.config), spec.name


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_server_knows_is_said(level: int) -> None:
    every = {spec.name: set(spec.config) for spec in streams(Settings())}
    for spec in fitting(streams(Settings()), Settings(), level):
        assert set(spec.config) == every[spec.name] - SWITCHES_OF_LATER_SERVERS.get(level, set())


@pytest.mark.parametrize("level", LEVELS)
def test_budgets_need_a_server_that_counts(level: int) -> None:
    names = [spec.name for spec in fitting(streams(Settings()), Settings(), level)]
    assert (SPEND_STREAM in names) is (level >= 2)
    if level >= 2:
        assert SPEND_STREAM in [spec.name for spec in fitting(streams(BUDGET), BUDGET, level)]
        return
    with pytest.raises(StartupError, match=r"tenants\.acme\.budget_usd_per_day needs NATS server 2\.12"):
        fitting(streams(BUDGET), BUDGET, level)


def test_a_switch_that_has_to_be_on_is_never_left_out() -> None:
    assert known_fields({"allow_msg_counter": True, "allow_batched": False}, 1) == {"allow_msg_counter": True}


def test_the_level_is_what_jetstreams_leader_says() -> None:
    assert level_of({"api": {"level": 4, "total": 0}}) == 4
    for answer in ({}, {"api": None}, {"api": {"total": 0, "errors": 0}}, {"api": {"level": "4"}}):
        with pytest.raises(StartupError, match=r"older than 2\.11: update every server"):
            level_of(answer)


@pytest.mark.parametrize("version", ["2.10.29", "1.4.1", "", "nonsense"])
def test_an_old_server_is_refused_naming_both_versions(version: str) -> None:
    with pytest.raises(StartupError, match=r"2\.11 or newer") as caught:
        check_version(version)
    assert (version or "unknown") in caught.value.message


@pytest.mark.parametrize("version", ["2.11.0", "2.15.1", "3.0.0-beta", "v2.12.0"])
def test_a_newer_server_is_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ('invalid JSON: json: unknown field "allow_batched"', "allow_batched"),
        ("invalid JSON: unexpected end of JSON input", None),
        ("stream name in subject does not match request", None),
    ],
)
def test_the_unknown_field_is_read_from_the_refusal(words: str, field: str | None) -> None:
    assert unknown_field(words) == field


async def test_an_older_leader_gets_the_stream_without_the_switches_that_are_off() -> None:
    """In a cluster of several versions the leader may be older than the server whose level was asked."""
    leader = Leader("allow_atomic", "allow_batched")
    (spec,) = [spec for spec in streams(Settings()) if spec.name == "LLM_REQ"]
    await leader.ensure(spec)
    assert set(spec.config) - set(leader.made) == {"allow_atomic", "allow_batched"}


async def test_a_switch_that_is_needed_and_unknown_stops_the_start_naming_the_version() -> None:
    (spec,) = [spec for spec in streams(Settings()) if spec.name == SPEND_STREAM]
    with pytest.raises(StartupError, match=r"allow_msg_counter.* NATS server 2\.12 or newer"):
        await Leader("allow_msg_counter").ensure(spec)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.12.0", True),
        ("2.12.1", True),
        ("v2.12.0-RC.1", True),
        ("2.12.2", False),
        ("2.12.10", False),
        ("2.11.0", False),
    ],
)
def test_the_releases_that_batches_stop_are_known(version: str, expected: bool) -> None:
    assert stops_on_batches(version) is expected
