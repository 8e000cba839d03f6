"""The questions of `doctor` about NATS, JetStream and the streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import msgspec

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.server_time import ServerTime
from sidecar.adapters.nats.streams.batches import STOPS_ON_BATCHES, stops_on_batches
from sidecar.adapters.nats.streams.drift import compare
from sidecar.adapters.nats.streams.levels import (
    check_version,
    fitting,
    level_of,
)
from sidecar.adapters.nats.streams.topology import StreamSpec, streams
from sidecar.cli.findings import NATS, Finding
from sidecar.config.settings import Settings
from sidecar.errors import BusRefused, BusUnavailable, SidecarError, StartupError
from sidecar.models.plain import UNREADABLE
from sidecar.runtime.lifecycle import SystemClock
from sidecar.runtime.server_clock import NEAR_S, ServerClock, shown_offset

_SERVICE = "llm-sidecar"
_PING_S = 1.0
_PERMISSIONS = "give the sidecar's user the permissions in deploy/nats"


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Each finding as soon as it is known; ends early where the rest depends on what failed."""
    connection = Connection(settings.nats, name="llm-sidecar doctor")
    try:
        try:
            async with asyncio.timeout(settings.nats.connect_timeout_s):
                await connection.start()
        except (TimeoutError, SidecarError) as e:
            yield _not_connected(connection, e)
            return
        info = connection.server_info
        where = f"{info.get('server_name', '?')} at {', '.join(connection.target.servers)}"
        yield Finding(NATS, "ok", f"{_shown(where)} (from {connection.target.source})")
        yield _version(connection)
        yield await _second(settings)
        mux = Mux(connection, timeout_s=settings.nats.request_timeout_s)
        await mux.start()
        try:
            async for finding in _jetstream(mux, settings):
                yield finding
            yield await _sidecars(mux)
        finally:
            await mux.close()
    finally:
        await connection.close()


def _not_connected(connection: Connection, error: BaseException) -> Finding:
    reason = connection.last_error or error
    text = reason.message if isinstance(reason, SidecarError) else "no server answered in time"
    remedy = "start a nats-server with JetStream, or name one by --server, --context or NATS_URL"
    if isinstance(reason, SidecarError) and reason.code == "access_denied":
        remedy = "give the right credentials: --creds, NATS_CREDS, or a context of the nats CLI"
    return Finding(NATS, "fail", text, remedy)


def _shown(text: str) -> str:
    return " ".join(word.rpartition("@")[2] if "@" in word else word for word in text.split())


def _version(connection: Connection) -> Finding:
    version = connection.server_version
    try:
        check_version(version)
    except StartupError as e:
        return Finding("server version", "fail", e.message, "update nats-server")
    if stops_on_batches(version):
        return Finding("server version", "warn", f"{version}: {STOPS_ON_BATCHES}", "update nats-server to 2.12.2")
    kib = connection.max_payload // 1024
    return Finding("server version", "ok", f"{version}, messages up to {kib} KiB")


async def _second(settings: Settings) -> Finding:
    """Whether the server lets a replica have its other connection, too."""
    connection = Connection(settings.nats, name="llm-sidecar doctor requests")
    try:
        await connection.start(within_s=settings.nats.connect_timeout_s)
        if connection.is_connected:
            return Finding("NATS connection for requests", "ok", "there is room for it")
    finally:
        await connection.close()
    reason = connection.last_error.message if connection.last_error else "no server answered in time"
    remedy = "allow two connections for each replica, in the server's and the account's limits"
    return Finding("NATS connection for requests", "warn", reason, remedy)


async def _jetstream(mux: Mux, settings: Settings) -> AsyncIterator[Finding]:
    try:
        account = await mux.api("INFO")
    except SidecarError as e:
        enabled = bool(mux.connection.server_info.get("jetstream"))
        remedy = _PERMISSIONS if enabled else "enable jetstream in the server's configuration and for this account"
        yield Finding("JetStream", "fail", e.message, remedy)
        return
    yield Finding("JetStream", "ok", _room(account))
    if not await is_strict(mux):
        yield Finding(
            "JetStream API",
            "warn",
            "takes requests with unknown fields, so that users of one account can aim acknowledgements at it",
            "set `jetstream { strict: true }` in the server's configuration, or upgrade nats-server to 2.12",
        )
    is_cluster = bool(mux.connection.server_info.get("cluster"))
    if is_cluster and settings.nats.replicas == 1:
        yield Finding(
            "replicas", "warn", "one copy of each stream on a cluster", "set nats.replicas = 3 for production"
        )
    try:
        wanted = fitting(streams(settings), settings, level_of(account))
    except StartupError as e:
        yield Finding("JetStream version", "fail", e.message, "update nats-server")
        return
    for spec in wanted:
        yield await _stream(mux, spec)
    yield await _clock(mux)


async def is_strict(mux: Mux) -> bool:
    """Whether JetStream's API refuses what it does not know, such as the words of its own acknowledgements."""
    try:
        await mux.api("STREAM.NAMES", {"stream": "none", "seq": 1})
    except BusRefused:
        return True
    return False


def _room(account: dict[str, Any]) -> str:
    limits = account.get("limits") or {}
    storage = limits.get("max_storage", -1)
    room = "no limit on storage" if storage in (-1, 0) else f"storage up to {storage / 1024**3:.1f} GiB"
    return f"{account.get('streams', 0)} streams, {room}"


async def _stream(mux: Mux, spec: StreamSpec) -> Finding:
    name = f"stream {spec.name}"
    try:
        actual = await mux.api(f"STREAM.INFO.{spec.name}")
    except NotFound:
        return Finding(name, "warn", "is not there yet", "`sidecar run` creates it")
    except BusUnavailable as e:
        return Finding(name, "fail", e.message, "wait until the stream has a leader; see `nats stream info`")
    except SidecarError as e:
        return Finding(name, "fail", e.message, _PERMISSIONS)
    drift = compare(spec, actual["config"])
    messages = f"{actual.get('state', {}).get('messages', 0):,} messages"
    if drift.conflicts:
        text = "; ".join(map(str, drift.conflicts))
        return Finding(name, "fail", text, "change the stream, move it away, or run with --adopt")
    if drift.changes:
        text = "; ".join(map(str, drift.changes))
        return Finding(name, "warn", text, "`sidecar run` changes that when it starts")
    return Finding(name, "ok", messages)


async def _clock(mux: Mux) -> Finding:
    """This machine's clock against the server's, which is the one that counts for jobs."""
    clock = ServerClock(SystemClock())
    with suppress(SidecarError):
        await ServerTime(mux, clock).sample()
    offset_s = clock.offset_s
    if offset_s is None:
        return Finding("clock", "ok", "not compared yet: there is no stream to ask")
    if abs(offset_s) <= NEAR_S:
        return Finding("clock", "ok", f"within {NEAR_S:g} s of the NATS server's")
    text = f"{shown_offset(offset_s)}; jobs go by the server's, signatures for AWS and logs by this one"
    return Finding("clock", "warn", text, "set this machine's clock, or the server's, right (NTP)")


async def _sidecars(mux: Mux) -> Finding:
    """Who answers as the sidecar's service now."""
    found: list[str] = []
    try:
        # The end is a silence: whoever is there has answered by then.
        with suppress(TimeoutError, BusUnavailable):
            async with (
                asyncio.timeout(_PING_S),
                aclosing(mux.request_many(f"$SRV.PING.{_SERVICE}")) as replies,
            ):
                async for reply in replies:
                    found.append(_replica(reply.payload))
    except SidecarError as e:
        return Finding("sidecars", "warn", e.message, _PERMISSIONS)
    if not found:
        return Finding("sidecars", "warn", "none answers", "start one: sidecar run")
    return Finding("sidecars", "ok", f"{len(found)} running: {', '.join(found)}")


def _replica(payload: bytes) -> str:
    try:
        answer = msgspec.json.decode(payload, type=dict[str, Any])
    except UNREADABLE:
        return "one that does not speak the micro service protocol"
    return f"{answer.get('id', '?')} (version {answer.get('version', '?')})"
