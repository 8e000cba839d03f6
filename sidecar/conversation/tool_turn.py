"""What becomes of the tool calls of one turn: which are made, which are answered without a call.

Pure, but for the check of inputs that is asked for each call.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from sidecar.config.settings import JobTool
from sidecar.errors import Permanent
from sidecar.job_manager.journal import (
    JournalledTurn,
    Pin,
    StepJournal,
    StoredResult,
    calls_made,
    spoken,
    strikes,
)
from sidecar.models.base import FieldError
from sidecar.models.call import ModelReply, ToolSpec
from sidecar.models.content import AnswerBlock, Message, OtherBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.rules import check_depth
from sidecar.models.tool import ToolInfo

# How often in a row a tool's input may miss its schema: the model is told so often, then the job fails.
MOST_STRIKES = 2

Check = Callable[[str, ToolInfo, Any], Awaitable[str | None]]
"""Where a value is not what a tool of a tenant's job takes or gives; None where it is."""


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the sidecar runs for this job. `child` is set for one that is a job itself.

    With neither `info` nor `child` it is gone: the version that the job began with lives no more.
    """

    spec: ToolSpec
    pin: Pin
    info: ToolInfo | None = None
    child: JobTool | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_idempotent(self) -> bool:
        """A job's id is derived from the call, so that a second one of it is never run."""
        return self.child is not None or self.pin.idempotent


class PlannedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call to be made: the turn's call number `call`, counted from 0."""

    turn: int
    call: int
    block: ToolUseBlock
    tool: OfferedTool


class Plan(NamedTuple):
    """`calls` are to be made, `settled` have their result without, `for_client` are of inline tools."""

    calls: tuple[PlannedCall, ...]
    settled: tuple[StoredResult, ...]
    for_client: int


def plan(
    journal: StepJournal,
    *,
    turn: int,
    calls: Sequence[ToolUseBlock],
    offered: Mapping[str, OfferedTool],
    inline: frozenset[str],
    problems: Mapping[int, str],
) -> Plan:
    """For a turn's calls, in order; `problems` says by their number which cannot be made, and why.

    Raises Permanent `tool_failed` where a tool's input misses once too often.
    """
    so_far = strikes(journal)
    wanted: list[PlannedCall] = []
    settled: list[StoredResult] = []
    for_client = 0
    for place, block in enumerate(calls):
        problem = problems.get(place)
        if block.name in inline and problem is None:
            for_client += 1
            continue
        tool = offered.get(block.name)
        if problem is None and tool is not None:
            wanted.append(PlannedCall(turn=turn, call=place, block=block, tool=tool))
            continue
        if so_far.get(block.name, 0) >= MOST_STRIKES:
            raise Permanent(
                f"{block.name} was called {MOST_STRIKES + 1} times in a row with what it does not take: {problem}",
                code="tool_failed",
                details={"tool": block.name, "problem": problem},
            )
        settled.append(StoredResult(call=place, outcome="invalid", block=error_block(block.id, _advice(problem))))
    return Plan(tuple(wanted), tuple(settled), for_client)


async def problems_of(
    tenant: str,
    calls: Sequence[ToolUseBlock],
    *,
    offered: Mapping[str, OfferedTool],
    inline: frozenset[str],
    unreadable: Mapping[int, str],
    check: Check,
) -> Mapping[int, str]:
    """Why calls of a turn cannot be made, by their number; those of inline tools are the client's.

    `unreadable` could not be read. An answer that holds such a call goes back to the model, so that the client
    gets none of its calls: it would have to answer those that it never saw.
    """
    found: dict[int, str] = {}
    for place, block in enumerate(calls):
        if place in unreadable:
            found[place] = unreadable[place]
            continue
        if block.name in inline:
            if unreadable:
                found[place] = OTHER_UNREADABLE
            continue
        tool = offered.get(block.name)
        problem = _problem(block, tool, offered)
        if problem is None and tool is not None and tool.info is not None:
            problem = await check(tenant, tool.info, block.input)
        if problem is not None:
            found[place] = problem
    return found


def _problem(block: ToolUseBlock, tool: OfferedTool | None, offered: Mapping[str, OfferedTool]) -> str | None:
    if tool is None:
        names = ", ".join(sorted(offered)) or "none"
        return f"there is no tool named {block.name!r}; there are: {names}"
    try:
        check_depth(block.input, path="the input")
    except FieldError as e:
        return str(e)
    if tool.child is not None:
        return tool.child.problem(block.input)
    return None


def _advice(problem: str | None) -> str:
    return f"The tool was not called: {problem}. Correct this before you call it again."


OTHER_UNREADABLE = "another call of the same answer could not be read"


def unreadable_in(reply: ModelReply) -> Mapping[int, str]:
    """What is wrong with the calls of an answer that cannot be read, by their number."""
    return {call.call: call.problem for call in reply.unreadable}


def is_hopeless(reply: ModelReply, strikes_of: Mapping[str, int]) -> bool:
    """Whether the model was told often enough that its calls cannot be read."""
    calls = [block for block in reply.content if isinstance(block, ToolUseBlock)]
    return any(strikes_of.get(calls[found.call].name, 0) >= MOST_STRIKES for found in reply.unreadable)


def given_up(reply: ModelReply) -> ModelReply:
    """An answer with calls that cannot be read, as the client gets it: they stand in it as they came."""
    raws = {found.call: OtherBlock(value=found.raw) for found in reply.unreadable}
    content: list[AnswerBlock] = []
    place = -1
    for block in reply.content:
        place += isinstance(block, ToolUseBlock)
        content.append(raws.get(place, block) if isinstance(block, ToolUseBlock) else block)
    return msgspec.structs.replace(reply, content=tuple(content), stop_reason="malformed_output", unreadable=())


def refusal_turn(reply: ModelReply, asked: Iterable[Message]) -> tuple[Message, ...]:
    """How a conversation goes on after calls that cannot be read, where the client alone has tools."""
    content = distinct(reply.content, asked)
    unreadable = unreadable_in(reply)
    calls = [block for block in content if isinstance(block, ToolUseBlock)]
    results = tuple(
        [
            error_block(block.id, _advice(unreadable.get(place, OTHER_UNREADABLE)))
            for place, block in enumerate(calls)
        ]
    )
    return (Message(role="assistant", content=spoken(content)), Message(role="user", content=results))


def distinct(content: Sequence[AnswerBlock], messages: Iterable[Message]) -> tuple[AnswerBlock, ...]:
    """An answer whose calls have ids that neither each other nor `messages` use; models have repeated some."""
    taken = {
        block.id
        for message in messages
        if not isinstance(message.content, str)
        for block in message.content
        if isinstance(block, ToolUseBlock)
    }
    found: list[AnswerBlock] = []
    numbers: dict[str, int] = {}
    for block in content:
        if isinstance(block, ToolUseBlock):
            # Each goes on from the last number: a thousand calls with one id are a thousand steps, not a million.
            name, number = block.id, numbers.get(block.id, 2)
            while name in taken:
                name, number = f"{block.id[:200]}_{number}", number + 1
            numbers[block.id] = number
            taken.add(name)
            found.append(block if name == block.id else msgspec.structs.replace(block, id=name))
        else:
            found.append(block)
    return tuple(found)


def check_bounds(journal: StepJournal, made: Plan, *, turn: int, max_turns: int, max_calls: int) -> None:
    """Raises Permanent `too_many_turns` where the calls, or the turn that would follow them, are too many."""
    total = calls_made(journal) + len(made.calls)
    if total > max_calls:
        raise Permanent(
            f"the model wants {total} tool calls, and {max_calls} are allowed; raise budget.max_tool_calls",
            code="too_many_turns",
            details={"max_tool_calls": max_calls, "turns": turn},
        )
    if not made.for_client and turn >= max_turns:
        raise Permanent(
            f"the model still calls tools in turn {turn}, the last that is allowed; raise budget.max_turns",
            code="too_many_turns",
            details={"max_turns": max_turns},
        )


class ResumePlan(NamedTuple):
    """What a new owner does about the calls without a result: make them (again), or tell the model."""

    calls: tuple[PlannedCall, ...]
    settled: tuple[StoredResult, ...]


def resume(
    turn: JournalledTurn,
    *,
    offered: Mapping[str, OfferedTool],
    inline: frozenset[str],
    on_unknown: Literal["repeat", "tell"],
) -> ResumePlan:
    """For a turn that another owner began."""
    wanted: list[PlannedCall] = []
    settled: list[StoredResult] = []
    for place, block in enumerate(turn.answer.calls):
        tool = offered.get(block.name)
        if block.name in inline or tool is None or turn.result_of(place) is not None:
            continue
        if place in turn.sent and not tool.is_idempotent and on_unknown == "tell":
            settled.append(
                StoredResult(call=place, outcome="failed", block=error_block(block.id, UNKNOWN_OUTCOME))
            )
        else:
            wanted.append(PlannedCall(turn=turn.number, call=place, block=block, tool=tool))
    return ResumePlan(tuple(wanted), tuple(settled))


UNKNOWN_OUTCOME = (
    "The outcome of this call is not known: it was sent, and whoever waited for its answer is gone. It may have "
    "taken effect or not; find out before you call it again."
)


def error_block(use_id: str, text: str) -> ToolResultBlock:
    return ToolResultBlock(tool_use_id=use_id, content=text, is_error=True)


def unmarked(calls: Sequence[PlannedCall]) -> tuple[int, ...]:
    """Which of these calls need a word in the journal before they are sent."""
    return tuple([wanted.call for wanted in calls if not wanted.tool.is_idempotent])


def idempotency_key(tenant: str, job: str, wanted: PlannedCall) -> str:
    """The same for every attempt of a call, another for every other call."""
    return f"{tenant}.{job}.{wanted.turn}.{wanted.call}"
