"""What a nats-server knows of stream configurations. Pure.

JetStream counts its abilities in an API level, which its answer to `INFO` gives since 2.11 (level 1). A server
refuses a configuration with a field that it does not know (2.11 only with `jetstream { strict: true }`, else it
passes over the field in silence). So a switch that is to be off is left out where the server has no such switch,
and one that is to be on needs the level that brought it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.adapters.nats.streams.topology import StreamSpec
from sidecar.config.settings import Settings
from sidecar.errors import StartupError
from sidecar.models.subjects import SPEND_STREAM

OLDEST_SERVER = (2, 11)
OLDEST_LEVEL = 1

# The first release of each level; level 3 came within 2.12 and brought nothing that is used here.
_FIRST_RELEASE: Mapping[int, str] = {1: "2.11", 2: "2.12", 3: "2.12.8", 4: "2.14", 5: "2.15"}
# Fields of a stream's configuration that not every supported server knows.
_LEVEL_OF: Mapping[str, int] = {
    "allow_msg_counter": 2,
    "allow_atomic": 2,
    "allow_msg_schedules": 2,
    "allow_batched": 4,
}
LEVEL_THAT_COUNTS = _LEVEL_OF["allow_msg_counter"]

_UNKNOWN = re.compile(r'unknown field \\?"([^"\\]+)')


def check_version(version: str) -> None:
    """Raises StartupError for a server older than this needs."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_SERVER:
        raise StartupError(
            f"the NATS server is version {version or 'unknown'}: {_release(OLDEST_LEVEL)} or newer is needed"
        )


def level_of(info: Mapping[str, Any]) -> int:
    """The API level in JetStream's answer to `INFO`; in a cluster the leader's, who also makes the streams.

    Raises StartupError where there is none: the connection's server may be new, JetStream's leader is not.
    """
    level = (info.get("api") or {}).get("level", 0)
    if not isinstance(level, int) or level < OLDEST_LEVEL:
        raise StartupError(
            f"JetStream is served here by a NATS server older than {_release(OLDEST_LEVEL)}:"
            " update every server of its cluster"
        )
    return level


def fitting(specs: Sequence[StreamSpec], settings: Settings, level: int) -> Sequence[StreamSpec]:
    """The streams that a server of this level can hold, each with the fields that it knows.

    Budgets need counters, and nothing else needs more than the oldest level. Raises StartupError for budgets on a
    server that does not count.
    """
    if level < LEVEL_THAT_COUNTS:
        budgeted = [name for name, tenant in settings.tenants.items() if tenant.budget_usd_per_day is not None]
        if budgeted:
            raise StartupError(
                f"tenants.{budgeted[0]}.budget_usd_per_day needs NATS server {_release(LEVEL_THAT_COUNTS)} or"
                f" newer, this one is {_release(level)}: upgrade the server or remove the budget"
            )
        specs = [spec for spec in specs if spec.name != SPEND_STREAM]
    return [StreamSpec(spec.name, known_fields(spec.config, level), spec.may_stay) for spec in specs]


def known_fields(config: Mapping[str, Any], level: int) -> dict[str, Any]:
    """The configuration without switches that are off and that a server of this level does not have."""
    return {name: value for name, value in config.items() if value or _LEVEL_OF.get(name, 0) <= level}


def unknown_field(refusal: str) -> str | None:
    """The field that a server does not know, by the words of its refusal; None for any other refusal."""
    found = _UNKNOWN.search(refusal)
    return found[1] if found else None


def needed_release(field: str) -> str:
    """The first release that knows a field, as a remedy says it."""
    level = _LEVEL_OF.get(field)
    return f"NATS server {_release(level)} or newer" if level else "a newer NATS server"


def _release(level: int) -> str:
    return _FIRST_RELEASE[level]
