"""Which tools a job may call: what its request names, resolved once, and the same for all its turns and owners."""

from collections.abc import Iterable, Sequence
from typing import Any

from sidecar.config.settings import CurrentPolicy
from sidecar.conversation.tool_turn import OfferedTool
from sidecar.errors import Permanent
from sidecar.job_manager.journal import Pin
from sidecar.models.call import ToolSpec
from sidecar.models.request import InlineTool, JobRequest
from sidecar.models.tool import ToolInfo
from sidecar.runtime.redaction import told
from sidecar.tool_registry.service import ToolRegistry

_GONE = "No longer available; listed because the conversation holds calls of it."


class ToolSelection:
    """Resolves names. `policy` is asked each time, so that a reload holds at once."""

    def __init__(self, *, registry: ToolRegistry, policy: CurrentPolicy) -> None:
        self._registry = registry
        self._policy = policy

    def named(self, tenant: str, request: JobRequest) -> tuple[OfferedTool, ...]:
        """The tools that the sidecar runs for a request, without inline ones.

        Raises Permanent (`unknown_tool`, `tenant_denied`) with the path of the entry.
        """
        found: list[OfferedTool] = []
        for place, ref in enumerate(request.tools):
            if isinstance(ref, str):
                try:
                    found.append(self._find(tenant, ref))
                except Permanent as e:
                    path = f"tools[{place}]"
                    raise Permanent(told(e), code=e.code, details={**e.details, "path": path}) from e
        return tuple(found)

    def pinned(self, tenant: str, pins: Sequence[Pin]) -> tuple[OfferedTool, ...]:
        """The tools that an earlier owner began with; those that live no more are still listed."""
        return tuple(self._again(tenant, pin) for pin in pins)

    def _find(self, tenant: str, ref: str) -> OfferedTool:
        name, _, wanted = ref.partition("@")
        if name not in self._policy.now.job_tools:
            return _offered(self._registry.find(tenant, ref))
        allowed = self._policy.now.tenant(tenant).tools
        if allowed is not None and name not in allowed:
            raise Permanent(f"tenant {tenant!r} may not use the tool {name!r}", code="tenant_denied")
        if wanted not in ("", "*"):
            raise Permanent(f"{name!r} is a job and has no versions: leave {wanted!r} out", code="unknown_tool")
        return self._child(name)

    def _child(self, name: str) -> OfferedTool:
        tool = self._policy.now.job_tools[name]
        spec = ToolSpec(name=name, description=tool.description, input_schema=tool.input_schema)
        return OfferedTool(spec=spec, pin=Pin(name=name, scope="", version=""), child=tool)

    def _again(self, tenant: str, pin: Pin) -> OfferedTool:
        if not pin.scope:
            return self._child(pin.name) if pin.name in self._policy.now.job_tools else _gone(pin)
        try:
            found = _offered(self._registry.find(tenant, f"{pin.name}@{pin.version}"))
        except Permanent:
            return _gone(pin)
        return found if found.pin.scope == pin.scope else _gone(pin)


def specs(offered: Iterable[OfferedTool]) -> tuple[ToolSpec, ...]:
    return tuple([tool.spec for tool in offered])


def inline_names(request: JobRequest) -> frozenset[str]:
    return frozenset([tool.name for tool in request.tools if isinstance(tool, InlineTool)])


def has_named(tools: Sequence[str | InlineTool]) -> bool:
    """Whether the sidecar has tools of this request to run."""
    return str in map(type, tools)


def _offered(info: ToolInfo) -> OfferedTool:
    return OfferedTool(
        spec=ToolSpec(name=info.name, description=info.description, input_schema=info.input_schema),
        pin=Pin(name=info.name, scope=info.scope, version=info.version, idempotent=info.idempotent),
        info=info,
    )


def _gone(pin: Pin) -> OfferedTool:
    schema: dict[str, Any] = {"type": "object"}
    return OfferedTool(spec=ToolSpec(name=pin.name, description=_GONE, input_schema=schema), pin=pin)
