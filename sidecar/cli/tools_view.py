"""What the subcommands of `sidecar tools` do."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation
from sidecar.errors import InvalidRequest, Permanent, Temporary
from sidecar.models.codec import decode, encode
from sidecar.models.subjects import HEADER_DEADLINE, HEADER_IDEMPOTENCY_KEY, HEADER_TENANT, SHARED_SCOPE, is_name
from sidecar.models.tool import ToolInfo, ToolList, ToolListRequest

if TYPE_CHECKING:
    from sidecar.client import SidecarClient

LONGEST_CALL_S = 3600.0


async def list_tools(invocation: Invocation, scope: str | None) -> int:
    async with await invocation.client() as client:
        tools = await _all(client, invocation, scope)
    if invocation.is_json:
        for tool in tools:
            invocation.json(tool)
        return exits.OK
    from sidecar.cli.tables import table

    rows = [
        (
            tool.name,
            tool.version,
            tool.scope,
            _until(tool),
            "yes" if tool.idempotent else "",
            _first_line(tool.description),
        )
        for tool in tools
    ]
    table(("tool", "version", "scope", "until", "idempotent", "description"), rows)
    return exits.OK


async def show_tool(invocation: Invocation, ref: str, scope: str | None) -> int:
    async with await invocation.client() as client:
        tool, versions = await _resolved(client, invocation, ref, scope)
    if invocation.is_json:
        invocation.json(tool)
        return exits.OK
    lines = {
        "tool": f"{tool.name} {tool.version}",
        "scope": tool.scope + (" (a service, not registered)" if tool.discovered else ""),
        "subject": tool.subject,
        "until": _until(tool),
        "timeout": f"{tool.timeout_s:g} s",
        "idempotent": "yes" if tool.idempotent else "no",
        "live": ", ".join(versions),
    }
    for name, value in lines.items():
        invocation.data(f"{name + ':':<12}{value}")
    invocation.data(f"\n{tool.description.strip()}\n")
    for name, schema in (("input", tool.input_schema), ("output", tool.output_schema)):
        if schema is not None:
            invocation.data(f"{name}: {msgspec.json.format(encode(schema), indent=2).decode()}")
    return exits.OK


async def call_tool(
    invocation: Invocation, ref: str, text: str, *, timeout_s: float | None, scope: str | None
) -> int:
    from sidecar.tool_registry.signature import input_problem, output_problem

    given = _input(text)
    async with await invocation.client() as client:
        tool, _ = await _resolved(client, invocation, ref, scope)
    problem = input_problem(tool, given)
    if problem is not None:
        raise InvalidRequest(problem)
    invocation.note(f"{tool.scope} {tool.name} {tool.version}")
    try:
        output = await _called(invocation, tool, encode(given), timeout_s or tool.timeout_s)
    except Temporary as e:
        invocation.note(e.message)
        return exits.UNREACHABLE if e.details.get("outcome") == "none" else exits.TIMEOUT
    try:
        value = msgspec.json.decode(output)
    except msgspec.MsgspecError:
        value = None
        invocation.note("the output is not JSON: a model would be told that the tool failed")
    else:
        problem = output_problem(tool, value)
        if problem is not None:
            invocation.note(f"{problem}: a model would be told that the tool failed")
    invocation.data(output.decode("utf-8", "replace"))
    return exits.OK if problem is None and (value is not None or output == b"null") else exits.FAILED


async def watch_tools(invocation: Invocation, scope: str | None, *, every_s: float) -> int:
    seen: dict[str, ToolInfo] = {}
    async with await invocation.client() as client:
        while True:
            tools = {
                f"{tool.scope}.{tool.name}.{tool.version}": tool for tool in await _all(client, invocation, scope)
            }
            for change in changes(seen, tools):
                _print_change(invocation, change)
            seen = tools
            await asyncio.sleep(every_s)


class Change(NamedTuple):
    kind: Literal["added", "renewed", "removed"]
    tool: ToolInfo


def changes(before: Mapping[str, ToolInfo], now: Mapping[str, ToolInfo]) -> Sequence[Change]:
    """What came, lives longer, and went between two looks."""
    found = [Change("removed", tool) for key, tool in before.items() if key not in now]
    for key, tool in now.items():
        if key not in before:
            found.append(Change("added", tool))
        elif tool.expires != before[key].expires and not tool.discovered:
            found.append(Change("renewed", tool))
    return found


def _print_change(invocation: Invocation, change: Change) -> None:
    tool = change.tool
    if invocation.is_json:
        invocation.json({"change": change.kind, "tool": tool})
        return
    sign = {"added": "+", "renewed": "~", "removed": "-"}[change.kind]
    until = "" if change.kind == "removed" else f"  until {_until(tool)}"
    invocation.data(f"{sign} {tool.scope} {tool.name} {tool.version}{until}")


async def _all(
    client: "SidecarClient", invocation: Invocation, scope: str | None, *, name: str | None = None
) -> list[ToolInfo]:
    """Live tools of one scope, or all that a tenant's jobs may call."""
    where = scope or invocation.tenant
    if not is_name(where):
        raise InvalidRequest(f"{where!r} is no scope: use 1 to 64 of A-Z a-z 0-9 _ -")
    subject = client.subjects.endpoint("tools", where, "list")
    found: list[ToolInfo] = []
    cursor: str | None = None
    while True:
        asked = ToolListRequest(name=name, shared=scope is None and where != SHARED_SCOPE, cursor=cursor)
        page = await client.ask_endpoint(subject, encode(asked), ToolList)
        found.extend(page.tools)
        cursor = page.cursor
        if cursor is None:
            return found


async def _resolved(
    client: "SidecarClient", invocation: Invocation, ref: str, scope: str | None
) -> tuple[ToolInfo, list[str]]:
    """The tool that a request for `ref` gets, and its live versions. Raises Permanent (`unknown_tool`)."""
    from sidecar.tool_registry.versions import highest, parse_range, parse_version

    name, _, text = ref.partition("@")
    if not is_name(name):
        raise InvalidRequest(f"{name!r} is no tool's name: use 1 to 64 of A-Z a-z 0-9 _ -")
    try:
        wanted = parse_range(text)
    except ValueError as e:
        raise InvalidRequest(str(e)) from e
    tools = await _all(client, invocation, scope, name=name)
    versions = [tool.version for tool in tools]
    tool = highest(wanted, ((parse_version(tool.version), tool) for tool in tools))
    if tool is None:
        live = f"live are {', '.join(versions)}" if versions else "no version is live"
        raise Permanent(f"no live tool fits {ref!r}: {live}", code="unknown_tool")
    return tool, versions


async def _called(invocation: Invocation, tool: ToolInfo, payload: bytes, timeout_s: float) -> bytes:
    from sidecar.adapters.nats.tool_bus import NatsToolBus
    from sidecar.cli.bus import connected
    from sidecar.models.base import rfc3339
    from sidecar.ports.tools import ToolCall

    deadline = time.time() + LONGEST_CALL_S
    headers = {
        HEADER_TENANT: invocation.tenant,
        HEADER_IDEMPOTENCY_KEY: f"cli-{uuid.uuid4().hex}",
        HEADER_DEADLINE: rfc3339(deadline),
    }
    async with connected(invocation, name="tools") as mux:
        call = ToolCall(
            subject=tool.subject, payload=payload, headers=headers, timeout_s=timeout_s, deadline=deadline
        )
        return await NatsToolBus(mux).call(call)


def _input(text: str) -> dict[str, Any]:
    try:
        return decode(text.encode(), dict[str, Any])
    except InvalidRequest as e:
        raise InvalidRequest(f"the input is no JSON object: {e.message}") from e


def _until(tool: ToolInfo) -> str:
    return tool.expires or "for ever"


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 60 else line[:59] + "…"
