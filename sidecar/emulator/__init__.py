"""A local Bedrock: true wire format, paced streams, tools, quotas, and faults on demand.

    async with Emulator() as emulator:
        client = boto3.client("bedrock-runtime", endpoint_url=emulator.url, ...)

How an answer is scripted stands in `grammar.py`, scenarios in `scenario.py`, the control endpoint in `control.py`.
Names are loaded on first use: importing this package does not import an HTTP server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.emulator.auth import AuthPolicy as AuthPolicy
    from sidecar.emulator.journal import CallRecord as CallRecord
    from sidecar.emulator.server import Emulator as Emulator
    from sidecar.emulator.server import serve as serve

_HOMES = {
    "AuthPolicy": "sidecar.emulator.auth",
    "CallRecord": "sidecar.emulator.journal",
    "Emulator": "sidecar.emulator.server",
    "serve": "sidecar.emulator.server",
}

__all__ = ["AuthPolicy", "CallRecord", "Emulator", "serve"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sidecar.emulator' has no attribute {name!r}")
    return getattr(import_module(home), name)
