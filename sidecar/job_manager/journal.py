"""What a job with tools has come to, step by step, so that a new owner goes on where the last one stopped. Pure.

A step is written after each turn of the model, before a call that must not be made twice without a word, and after
each result. Steps are only ever appended; a `StepJournal` is what they add up to.
"""

import logging
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal

import msgspec

from sidecar.errors import InvalidRequest, SidecarError
from sidecar.models import codec
from sidecar.models.content import (
    AnswerBlock,
    Block,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sidecar.models.event import EventPosition
from sidecar.models.facts import RunFacts
from sidecar.models.result import Attempt, Child, StopReason, Usage, UsageBasis, worth_listing

log = logging.getLogger(__name__)

Outcome = Literal["returned", "failed", "invalid"]


class JournalStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is journalled: small, and open for the fields of the next version."""


class Pin(JournalStep, frozen=True):
    """The version that a name of the request stands for in this job. `scope` is empty for a job that is a tool."""

    name: str
    scope: str
    version: str
    idempotent: bool = False


class Bill(JournalStep, frozen=True):
    """What the job took so far, as in `RunFacts`."""

    usage: Usage
    usage_basis: UsageBasis
    cost_usd: float | None
    counted_micro_usd: int
    attempts: tuple[Attempt, ...] = ()
    left_out: int = 0
    children: tuple[Child, ...] = ()
    warnings: tuple[str, ...] = ()
    first_token_ms: int | None = None
    model: str | None = None
    model_id: str | None = None


class TurnAnswer(JournalStep, frozen=True):
    """The model's words of one turn. `before` are messages between the turn before and this one."""

    content: tuple[AnswerBlock, ...]
    stop_reason: StopReason
    raw_stop_reason: str
    before: tuple[Message, ...] = ()

    @property
    def calls(self) -> tuple[ToolUseBlock, ...]:
        return tuple([block for block in self.content if isinstance(block, ToolUseBlock)])


class StoredResult(JournalStep, frozen=True):
    """The result of the turn's call number `call`, counted from 0. `invalid`: it was never made."""

    call: int
    outcome: Outcome
    block: ToolResultBlock


class Step(JournalStep, frozen=True):
    """One message of the journal. `number` counts from 1; a number that was seen before is a repetition.

    With an `answer` it begins the turn, and `said` counts the events of `attempt` that were stored before.
    `sent` are calls about to be sent.
    """

    number: int
    turn: int
    attempt: int = 0
    said: int = 0
    pins: tuple[Pin, ...] = ()
    answer: TurnAnswer | None = None
    sent: tuple[int, ...] = ()
    results: tuple[StoredResult, ...] = ()
    bill: Bill | None = None


class JournalledTurn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn as far as it has come. `place` is the last event before its answer was kept."""

    number: int
    answer: TurnAnswer
    place: EventPosition = EventPosition(0, 0)
    sent: frozenset[int] = frozenset()
    results: tuple[StoredResult, ...] = ()

    def result_of(self, call: int) -> StoredResult | None:
        return next((kept for kept in self.results if kept.call == call), None)


class StepJournal(msgspec.Struct, frozen=True, kw_only=True):
    """A job's steps, added up. `steps` is the number of the last one."""

    steps: int = 0
    pins: tuple[Pin, ...] = ()
    turns: tuple[JournalledTurn, ...] = ()
    bill: Bill | None = None

    @property
    def last_turn(self) -> JournalledTurn | None:
        return self.turns[-1] if self.turns else None

    def after(self, step: Step) -> "StepJournal":
        """The journal with one more step; the same one after a repetition."""
        if step.number <= self.steps:
            return self
        turns = self.turns
        if step.answer is not None:
            place = EventPosition(step.attempt, step.said)
            turns = (*turns, JournalledTurn(number=step.turn, answer=step.answer, place=place))
        if not turns or turns[-1].number != step.turn:
            raise SidecarError(f"step {step.number} of a journal belongs to turn {step.turn}, which never began")
        last, results = turns[-1], step.results
        if last.results and results:
            known = {kept.call for kept in last.results}
            results = tuple([kept for kept in results if kept.call not in known])
        last = msgspec.structs.replace(
            last, sent=last.sent | frozenset(step.sent), results=(*last.results, *results)
        )
        return StepJournal(
            steps=step.number,
            pins=step.pins or self.pins,
            turns=(*turns[:-1], last),
            bill=step.bill or self.bill,
        )

    def messages(self) -> tuple[Message, ...]:
        """What the turns have added to the conversation, as far as each has all its results."""
        found: list[Message] = []
        for turn in self.turns:
            found += turn.answer.before
            found.append(Message(role="assistant", content=spoken(turn.answer.content)))
            results = in_order(turn)
            if results:
                found.append(Message(role="user", content=results))
        return tuple(found)


def read(payloads: Iterable[bytes]) -> StepJournal:
    """The journal of stored steps, in any order: steps of long jobs are stored again, lest they age.

    What strangers put among them has no number, and is passed over. Raises SidecarError for a step that this
    version cannot read.
    """
    journal = StepJournal()
    for step in sorted(_steps(payloads), key=lambda step: step.number):
        journal = journal.after(step)
    return journal


def _steps(payloads: Iterable[bytes]) -> Iterable[Step]:
    for payload in payloads:
        try:
            yield codec.decode(payload, Step)
        except InvalidRequest as e:
            if _is_numbered(payload):
                raise SidecarError(f"a step of the job's journal cannot be read: {e.message}") from e
            log.warning("a job's journal holds what is no step", extra={"bytes": len(payload)})


class _Numbered(JournalStep, frozen=True):
    number: int


def _is_numbered(payload: bytes) -> bool:
    try:
        return codec.decode(payload, _Numbered).number >= 1
    except InvalidRequest:
        return False


def has_come_on(payloads: Iterable[bytes], *, attempt: int) -> bool:
    """Whether the owner of this attempt, which may be its second one, got a step further than it began."""
    try:
        return any(step.attempt >= attempt - 1 for step in _steps(payloads))
    except SidecarError:
        return False


def in_order(turn: JournalledTurn) -> tuple[ToolResultBlock, ...]:
    """The turn's results in the order of its calls."""
    return tuple([kept.block for kept in sorted(turn.results, key=attrgetter("call"))])


def spoken(content: Sequence[AnswerBlock]) -> tuple[Block, ...]:
    """An answer's blocks as an assistant message may repeat them."""
    kept = tuple([block for block in content if isinstance(block, TextBlock | ToolUseBlock | ReasoningBlock)])
    return kept or (TextBlock(text="…"),)


def strikes(journal: StepJournal) -> dict[str, int]:
    """For each tool, how many of its turns in a row, up to the last, held a call that did not fit."""
    counts: dict[str, int] = {}
    for turn in journal.turns:
        by_name: dict[str, bool] = {}
        for place, call in enumerate(turn.answer.calls):
            kept = turn.result_of(place)
            if kept is not None:
                by_name[call.name] = by_name.get(call.name, False) or kept.outcome == "invalid"
        for name, is_invalid in by_name.items():
            counts[name] = counts.get(name, 0) + 1 if is_invalid else 0
    return counts


def calls_made(journal: StepJournal) -> int:
    """How many calls have a result of their tool, good or bad."""
    return sum(kept.outcome != "invalid" for turn in journal.turns for kept in turn.results)


def bill_of(facts: RunFacts) -> Bill:
    listed = worth_listing(facts.attempts)
    return Bill(
        usage=facts.usage,
        usage_basis=facts.usage_basis,
        cost_usd=facts.cost_usd,
        counted_micro_usd=facts.counted_micro_usd,
        attempts=listed,
        left_out=facts.calls - len(listed),
        children=tuple(facts.children),
        warnings=tuple(facts.warnings),
        first_token_ms=facts.first_token_ms,
        model=facts.model,
        model_id=facts.model_id,
    )


def unseen(facts: RunFacts, bill: Bill) -> list[Attempt]:
    """Calls that ended with their owner, as the job's document has them and the journal does not."""
    known = {call.attempt for call in bill.attempts if call.outcome == "crashed"}
    return [call for call in facts.attempts if call.outcome == "crashed" and call.attempt not in known]


def restore(facts: RunFacts, bill: Bill, *, lost: Sequence[Attempt]) -> None:
    """Go on counting from where earlier owners were, by the later one of two accounts.

    `facts` have what the job's document carries, `bill` what the journal says. `lost` are those of the `unseen`
    calls that did not come to an end that the journal knows.
    """
    for call in unseen(facts, bill):
        if call not in lost:
            gone = f"the replica that ran attempt {call.attempt} "
            facts.warnings[:] = [warning for warning in facts.warnings if not warning.startswith(gone)]
    spent = _tokens(facts.usage) - sum(_tokens(call.usage) for call in unseen(facts, bill) if call.usage)
    ended_here, ended_there = _ended(facts.attempts) + facts.left_out, _ended(bill.attempts) + bill.left_out
    if (ended_here, spent) > (ended_there, _tokens(bill.usage)):
        facts.children[:] = bill.children
        return
    facts.usage, facts.usage_basis, facts.cost_usd = bill.usage, bill.usage_basis, bill.cost_usd
    facts.counted_micro_usd = bill.counted_micro_usd
    facts.attempts[:] = (*bill.attempts, *lost)
    facts.left_out = bill.left_out
    facts.children[:] = bill.children
    facts.first_token_ms = bill.first_token_ms
    facts.model, facts.model_id = bill.model, bill.model_id
    facts.warn(*bill.warnings)
    for call in lost:
        facts.usage += call.usage or Usage()
        facts.usage_basis = "estimated"
        is_known = facts.cost_usd is not None and isinstance(call.cost_usd, float)
        facts.cost_usd = (facts.cost_usd or 0.0) + (call.cost_usd or 0.0) if is_known else None


def _ended(attempts: Sequence[Attempt]) -> int:
    return sum(call.outcome != "crashed" for call in attempts)


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens
