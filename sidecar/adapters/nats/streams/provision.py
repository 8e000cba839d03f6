"""Make the streams be there, as `topology.py` describes them, or say why that cannot be."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sidecar.adapters.nats.client.errors import NotFound
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.streams.batches import STOPS_ON_BATCHES, stops_on_batches
from sidecar.adapters.nats.streams.drift import Difference, Drift, compare, is_covered
from sidecar.adapters.nats.streams.levels import (
    check_version,
    fitting,
    level_of,
    needed_release,
    unknown_field,
)
from sidecar.adapters.nats.streams.topology import StreamSpec, bytes_setting, streams
from sidecar.config.settings import Settings
from sidecar.errors import BusRefused, BusUnavailable, StartupError
from sidecar.runtime.lifecycle import SystemClock
from sidecar.runtime.retry import RetryDelay, again

log = logging.getLogger(__name__)

_INVALID_JSON = 10025
_NAME_IN_USE = 10058
_OVERLAP = 10065
_NOT_CLUSTERED = 10074
_NO_JETSTREAM = {10039, 10076}
_NO_ROOM = {10023, 10028, 10047}
_SUBJECTS_REMEDY = (
    "one account holds one prefix: use its prefix as nats.prefix, another account, or move the stream away"
)


async def ensure(mux: Mux, settings: Settings) -> None:
    """Create the streams that are missing, bring others up to date where that loses nothing.

    Idempotent, and right when several replicas do it at once. Waits while NATS is away. Raises StartupError,
    with the remedy, for a server too old or without JetStream, and for a stream that conflicts; with
    `nats.adopt` conflicts are logged instead and streams stay as they are.
    """
    check_version(mux.connection.server_version)
    if stops_on_batches(mux.connection.server_version):
        log.warning("nats-server %s: %s", mux.connection.server_version, STOPS_ON_BATCHES)
    wanted: list[StreamSpec] = []

    async def look() -> None:
        wanted[:] = await wanted_streams(mux, settings)

    await _patiently("JetStream", look)
    for spec in wanted:
        await _patiently(spec.name, lambda spec=spec: ensure_stream(mux, spec, adopt=settings.nats.adopt))  # type: ignore[misc]


async def wanted_streams(mux: Mux, settings: Settings) -> Sequence[StreamSpec]:
    """What has to be there, in the words of the server that JetStream's API speaks for.

    Raises StartupError without JetStream, or on a server too old for these settings; BusUnavailable.
    """
    return fitting(streams(settings), settings, level_of(await _jetstream_info(mux)))


async def _patiently(what: str, step: Callable[[], Awaitable[None]]) -> None:
    """Do `step`, again and again while NATS is away."""
    # Pauses by chance: a fleet that starts at once must not ask at once each time.
    delay = RetryDelay(SystemClock(), f"making {what} ready", next_s=0.2, longest_s=10.0, spread=1.0)
    try:
        await step()
    except BusUnavailable as e:
        await again(delay, step, e)


async def _jetstream_info(mux: Mux) -> dict[str, Any]:
    try:
        return await mux.api("INFO")
    except BusRefused as e:
        raise _no_jetstream(e) if e.details.get("err_code") in _NO_JETSTREAM else _denied(e) from e
    except BusUnavailable as e:
        is_nobody = e.details.get("status") == 503
        if is_nobody and not mux.connection.server_info.get("jetstream"):
            raise _no_jetstream(e) from e
        raise


def _no_jetstream(error: Exception) -> StartupError:
    return StartupError(
        f"JetStream is not enabled here ({error}): enable it in the server's configuration and for this account"
    )


def _denied(error: Exception) -> StartupError:
    return StartupError(f"JetStream cannot be used: {error}")


async def ensure_stream(mux: Mux, spec: StreamSpec, *, adopt: bool) -> None:
    """One stream, as `ensure` makes it. Raises StartupError, BusUnavailable."""
    actual = await _info(mux, spec.name)
    if actual is None:
        actual = await _create(mux, spec)
    drift = compare(spec, actual)
    for difference in drift.kept:
        log.info("stream %s: %s; the larger is kept", spec.name, difference)
    if adopt:
        _adopt(spec, actual, drift)
        return
    if drift.conflicts:
        raise _conflict(spec, drift.conflicts)
    if drift.changes:
        await _update(mux, spec, actual, drift)


async def _info(mux: Mux, name: str) -> dict[str, Any] | None:
    try:
        answer = await mux.api(f"STREAM.INFO.{name}")
    except NotFound:
        return None
    config: dict[str, Any] = answer["config"]
    return config


async def _create(mux: Mux, spec: StreamSpec) -> dict[str, Any]:
    """The new stream's configuration, or what another replica made of it in the same moment."""
    try:
        answer = await _configure(mux, f"STREAM.CREATE.{spec.name}", {"name": spec.name, **spec.config})
    except BusRefused as e:
        if e.details.get("err_code") != _NAME_IN_USE:
            raise await _not_created(mux, spec, e) from e
        actual = await _info(mux, spec.name)
        if actual is None:
            raise BusUnavailable(f"stream {spec.name} came and went") from e
        return actual
    except BusUnavailable as e:
        if e.details.get("err_code") in _NO_ROOM:
            raise await _not_created(mux, spec, e) from e
        raise
    log.info("stream %s created", spec.name)
    config: dict[str, Any] = answer["config"]
    return config


async def _configure(mux: Mux, call: str, config: dict[str, Any]) -> dict[str, Any]:
    """Send a stream's configuration, without fields that are off and that whoever answers does not know.

    The level was asked of one server; while a cluster is being updated another, older one may lead by now, or a
    field may be in question that nobody has foreseen. Raises like `Mux.api`, and StartupError for a field that is
    needed and not known.
    """
    config = dict(config)
    while True:
        try:
            return await mux.api(call, config)
        except BusRefused as e:
            field = unknown_field(e.message) if e.details.get("err_code") == _INVALID_JSON else None
            if field is None or field not in config:
                raise
            if config[field]:
                raise StartupError(
                    f"{call} needs {field}, which the NATS server that leads JetStream does not know:"
                    f" {needed_release(field)} is needed, on every server of the cluster"
                ) from e
            del config[field]


async def _not_created(mux: Mux, spec: StreamSpec, error: BusRefused | BusUnavailable) -> StartupError:
    text = f"stream {spec.name} cannot be created: {error}"
    err_code = error.details.get("err_code")
    if err_code == _OVERLAP:
        others = await _holders(mux, spec)
        return StartupError(
            f"stream {spec.name} cannot be created: {', '.join(others) or 'another stream'} already takes "
            f"subjects of {', '.join(spec.config['subjects'])}: {_SUBJECTS_REMEDY}"
        )
    if err_code == _NOT_CLUSTERED:
        return StartupError(f"{text}: nats.replicas = {spec.config['num_replicas']} needs a cluster; set it to 1")
    if err_code in _NO_ROOM:
        return StartupError(f"{text}: {_room_remedy(spec)}")
    return StartupError(text)


def _room_remedy(spec: StreamSpec) -> str:
    setting = bytes_setting(spec.name)
    if setting is None:
        return "give JetStream more room"
    return f"give JetStream more room, or lower {setting} (this stream asks for {spec.config['max_bytes']} bytes)"


async def _holders(mux: Mux, spec: StreamSpec) -> list[str]:
    names: set[str] = set()
    for subject in spec.config["subjects"]:
        answer = await mux.api("STREAM.NAMES", {"subject": subject})
        names.update(answer.get("streams") or ())
    return sorted(names)


async def _update(mux: Mux, spec: StreamSpec, actual: dict[str, Any], drift: Drift) -> None:
    try:
        await _configure(mux, f"STREAM.UPDATE.{spec.name}", drift.updated(actual))
    except BusRefused as e:
        rest = _left_as_it_is(spec, drift, e)
        if rest is not None:
            if rest.changes:
                await _update(mux, spec, actual, rest)
            return
        text = "; ".join(map(str, drift.changes))
        raise StartupError(
            f"stream {spec.name}: {text}, and NATS does not change that: {e.message}. {_remedy(spec)}"
        ) from e
    for change in drift.changes:
        log.info("stream %s: %s; changed", spec.name, change)


def _left_as_it_is(spec: StreamSpec, drift: Drift, refusal: BusRefused) -> Drift | None:
    """The changes without those that the stream can do without; None where there are none of these."""
    stay = [change for change in drift.changes if change.field in spec.may_stay]
    if not stay:
        return None
    for change in stay:
        log.warning(
            "stream %s: %s, and this NATS server does not change that (%s): left as it is; upgrade the server and"
            " start again",
            spec.name,
            change,
            refusal.message,
        )
    return Drift([change for change in drift.changes if change not in stay], drift.kept, drift.conflicts)


def _adopt(spec: StreamSpec, actual: dict[str, Any], drift: Drift) -> None:
    """Take the stream as it is. Raises StartupError when it does not hold our subjects at all."""
    have = actual.get("subjects") or ()
    missing = [subject for subject in spec.config["subjects"] if not is_covered(subject, have)]
    if missing:
        raise StartupError(
            f"stream {spec.name} does not hold {', '.join(missing)} but {', '.join(have) or 'nothing'}, "
            f"and cannot be adopted: {_SUBJECTS_REMEDY}"
        )
    for difference in (*drift.conflicts, *drift.changes):
        log.warning("stream %s: %s; adopted as it is", spec.name, difference)


def _conflict(spec: StreamSpec, conflicts: list[Difference]) -> StartupError:
    text = "; ".join(map(str, conflicts))
    if any(conflict.field == "subjects" for conflict in conflicts):
        return StartupError(f"stream {spec.name} conflicts: {text}. {_SUBJECTS_REMEDY.capitalize()}")
    return StartupError(f"stream {spec.name} conflicts: {text}. {_remedy(spec)}")


def _remedy(spec: StreamSpec) -> str:
    return (
        f"Change or remove it (`nats stream edit {spec.name}`, `nats stream rm {spec.name}`), or start with "
        "--adopt to take it as it is"
    )
