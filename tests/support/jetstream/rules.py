"""What JetStream reads in a message's headers, and refuses."""

from collections.abc import Mapping
from typing import Any

from tests.support.jetstream.wire import seconds

EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class Refused(Exception):
    """JetStream's error: what stands under `error` in its answers."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.error = {"code": code, "err_code": err_code, "description": description}


def life_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to live, infinity for `never`; None where only the stream's age counts."""
    text = headers.get("Nats-TTL")
    if text is None:
        return None
    try:
        life_s = seconds(text) if text else None
    except ValueError:
        raise Refused(400, 10165, "invalid per-message TTL") from None
    return float("inf") if text and life_s is None else life_s


def check_switches(headers: Mapping[str, str], config: Mapping[str, Any]) -> None:
    if "Nats-Schedule" in headers and not config.get("allow_msg_schedules"):
        raise Refused(400, 10188, "message schedules is disabled")
    if "Nats-Batch-Id" in headers and not config.get("allow_atomic"):
        raise Refused(400, 10174, "atomic publish is disabled")


def rollup_of(headers: Mapping[str, str], config: Mapping[str, Any]) -> str | None:
    rollup = headers.get("Nats-Rollup")
    if rollup is None:
        return None
    if not config.get("allow_rollup_hdrs") or config.get("deny_purge"):
        raise Refused(500, 10111, "rollup not permitted")
    if rollup.lower() not in ("sub", "all"):
        raise Refused(500, 10111, f'rollup value invalid: "{rollup}"')
    return rollup.lower()


def increment_of(headers: Mapping[str, str]) -> int | None:
    increment = headers.get("Nats-Incr")
    try:
        return int(increment) if increment else None
    except ValueError:
        raise Refused(400, 10171, "message counter increment is invalid") from None


def is_life(text: str) -> bool:
    try:
        seconds(text)
    except ValueError:
        return False
    return True
