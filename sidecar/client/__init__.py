"""What applications import: `SidecarClient` submits jobs to the sidecar and follows them over NATS.

Imports nothing of the sidecar but its models and errors. The names are loaded on first use, so that somebody
who needs only the errors does not pay for the NATS client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient as SidecarClient
    from sidecar.client.errors import EventsLost as EventsLost
    from sidecar.client.errors import JobFailed as JobFailed
    from sidecar.client.errors import QueueFull as QueueFull
    from sidecar.client.errors import TextRestarted as TextRestarted
    from sidecar.client.errors import UnknownJob as UnknownJob
    from sidecar.client.job import Job as Job
    from sidecar.client.results import JobResult as JobResult
    from sidecar.client.errors import UnknownObject as UnknownObject
    from sidecar.client.text import TextPiece as TextPiece

_HOMES = {
    "EventsLost": "errors",
    "Job": "job",
    "JobFailed": "errors",
    "JobResult": "results",
    "QueueFull": "errors",
    "SidecarClient": "client",
    "TextPiece": "text",
    "TextRestarted": "errors",
    "UnknownJob": "errors",
}

__all__ = [
    "EventsLost",
    "Job",
    "JobFailed",
    "JobResult",
    "QueueFull",
    "SidecarClient",
    "TextPiece",
    "TextRestarted",
    "UnknownJob",
]


    "UnknownObject": "errors",
    "continue_with": "continuing",
    "run_calls": "continuing",
    "tool": "tools.definition",
def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sidecar.client' has no attribute {name!r}")
    return getattr(import_module(f"sidecar.client.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
    "UnknownObject",
    "continue_with",
    "run_calls",
    "tool",
