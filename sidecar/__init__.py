"""Amazon Bedrock behind a NATS bus: durable, fairly shared LLM jobs.

The public names are loaded on first use (PEP 562), so that importing the package stays cheap and has
no side effect.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sidecar.client import Job as Job
    from sidecar.client import SidecarClient as SidecarClient
    from sidecar.client import ToolContext as ToolContext
    from sidecar.client import ToolError as ToolError
    from sidecar.client import ToolProvider as ToolProvider
    from sidecar.client import tool as tool
    from sidecar.errors import JobCancelled as JobCancelled
    from sidecar.errors import Permanent as Permanent
    from sidecar.errors import SidecarError as SidecarError
    from sidecar.errors import Temporary as Temporary

_HOMES = {
    "Job": "sidecar.client",
    "SidecarClient": "sidecar.client",
    "ToolContext": "sidecar.client",
    "ToolError": "sidecar.client",
    "ToolProvider": "sidecar.client",
    "tool": "sidecar.client",
    "JobCancelled": "sidecar.errors",
    "Permanent": "sidecar.errors",
    "SidecarError": "sidecar.errors",
    "Temporary": "sidecar.errors",
}

__all__ = [
    "Job",
    "JobCancelled",
    "Permanent",
    "SidecarClient",
    "SidecarError",
    "Temporary",
    "ToolContext",
    "ToolError",
    "ToolProvider",
    "__version__",
    "tool",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sidecar' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
