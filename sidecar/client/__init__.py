"""What applications import: `SidecarClient` submits jobs to the sidecar and follows them over NATS.

Imports nothing of the sidecar but its models, its errors and the reading of NATS's bytes (`wire`). The names are
loaded on first use, so that somebody who needs only the errors does not pay for the NATS client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.client.client import SidecarClient as SidecarClient
    from sidecar.client.connection import StrictClient as StrictClient
    from sidecar.client.continuing import continue_with as continue_with
    from sidecar.client.continuing import run_calls as run_calls
    from sidecar.client.errors import EventsLost as EventsLost
    from sidecar.client.errors import JobFailed as JobFailed
    from sidecar.client.errors import QueueFull as QueueFull
    from sidecar.client.errors import RateLimited as RateLimited
    from sidecar.client.errors import TextRestarted as TextRestarted
    from sidecar.client.errors import UnknownJob as UnknownJob
    from sidecar.client.errors import UnknownObject as UnknownObject
    from sidecar.client.job import Job as Job
    from sidecar.client.results import JobResult as JobResult
    from sidecar.client.text import TextPiece as TextPiece
    from sidecar.client.tools.context import ToolContext as ToolContext
    from sidecar.client.tools.definition import Tool as Tool
    from sidecar.client.tools.definition import tool as tool
    from sidecar.client.tools.errors import InvalidTool as InvalidTool
    from sidecar.client.tools.errors import ToolCancelled as ToolCancelled
    from sidecar.client.tools.errors import ToolError as ToolError
    from sidecar.client.tools.provider import ToolProvider as ToolProvider

_HOMES = {
    "EventsLost": "errors",
    "InvalidTool": "tools.errors",
    "Job": "job",
    "JobFailed": "errors",
    "JobResult": "results",
    "QueueFull": "errors",
    "RateLimited": "errors",
    "SidecarClient": "client",
    "StrictClient": "connection",
    "TextPiece": "text",
    "TextRestarted": "errors",
    "Tool": "tools.definition",
    "ToolCancelled": "tools.errors",
    "ToolContext": "tools.context",
    "ToolError": "tools.errors",
    "ToolProvider": "tools.provider",
    "UnknownJob": "errors",
    "UnknownObject": "errors",
    "continue_with": "continuing",
    "run_calls": "continuing",
    "tool": "tools.definition",
}

__all__ = [
    "EventsLost",
    "InvalidTool",
    "Job",
    "JobFailed",
    "JobResult",
    "QueueFull",
    "RateLimited",
    "SidecarClient",
    "StrictClient",
    "TextPiece",
    "TextRestarted",
    "Tool",
    "ToolCancelled",
    "ToolContext",
    "ToolError",
    "ToolProvider",
    "UnknownJob",
    "UnknownObject",
    "continue_with",
    "run_calls",
    "tool",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sidecar.client' has no attribute {name!r}")
    return getattr(import_module(f"sidecar.client.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
