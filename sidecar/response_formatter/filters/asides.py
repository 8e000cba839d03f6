"""What is said of a job beside its answer: errors, warnings, retries, calls of tools. It may quote strangers."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sidecar.errors import Permanent, SidecarError, TooCostly
from sidecar.models.event import Status, ToolActivity
from sidecar.models.filtering import FilterContext
from sidecar.models.job import Carried
from sidecar.models.result import Attempt, ErrorInfo
from sidecar.response_formatter.filters.apart import screened
from sidecar.response_formatter.filters.filtering import WITHHELD, TextFiltering, judged_texts
from sidecar.response_formatter.filters.rewriting import stand_in
from sidecar.response_formatter.filters.stream import Chain, FilterCounts
from sidecar.response_formatter.filters.values import BLOCKED, Gathered, Told, walked

log = logging.getLogger(__name__)


class Asides:
    """Shows what is said as an answer's chain and the tools' let it be seen. `counts` gathers what was found."""

    def __init__(
        self, output: Chain, tools: Chain, filtering: TextFiltering, context: Callable[[], FilterContext]
    ) -> None:
        self._output = output
        self._tools = tools
        self._filtering = filtering
        self._context = context
        self.counts = FilterCounts()
        self.known: frozenset[str] = frozenset()
        """Names of tools that were offered; any other is the model's own words."""

    @property
    def is_plain(self) -> bool:
        return self._output.is_plain and self._tools.is_plain

    async def shown(self, said: Sequence[Any], *, counts: FilterCounts | None = None) -> list[Any]:
        """Texts and details. What cannot be looked at is withheld; only a cancellation is raised."""
        if self._output.is_plain:
            return list(said)
        counts = self.counts if counts is None else counts
        try:
            seen, is_blocked = await self._through(self._output, said, counts)
        except SidecarError as e:
            log.warning(
                "what was said of a job could not be filtered", extra={"job": self._context().job, "why": e.code}
            )
            return withheld(said, WITHHELD)
        return withheld(seen, BLOCKED) if is_blocked else seen

    async def error(self, error: ErrorInfo, *, counts: FilterCounts | None = None) -> ErrorInfo:
        if self._output.is_plain:
            return error
        message, details = await self.shown([error.message, error.details], counts=counts)
        return msgspec.structs.replace(error, message=message, details=details)

    def attempts(self, attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
        """Those of an earlier owner, which may have known no better; rules are enough."""
        if not self._output.rules:
            return tuple(attempts)
        return tuple([self._attempt(attempt) if attempt.error is not None else attempt for attempt in attempts])

    def _attempt(self, attempt: Attempt) -> Attempt:
        assert attempt.error is not None  # noqa: S101
        message, details = screened(self._output, [attempt.error.message, attempt.error.details], ["", ""]).values
        error = msgspec.structs.replace(attempt.error, message=message, details=details)
        return msgspec.structs.replace(attempt, error=error)

    def carried(self, carried: Carried | None) -> Carried | None:
        """What a later owner is left, where there is no time to ask anybody: what judges would see stays away."""
        if carried is None or self._output.is_plain:
            return carried
        warnings: Sequence[str] = () if self._output.judges else carried.warnings
        shown = screened(self._output, list(warnings), [""] * len(warnings)).values
        return msgspec.structs.replace(carried, warnings=tuple(shown), attempts=self.attempts(carried.attempts))

    async def event(self, data: Status | ToolActivity) -> Status | ToolActivity:
        """Raises Permanent (`guardrail_blocked`) for what a tool took or gave that takes too long to filter."""
        if isinstance(data, ToolActivity):
            return await self._activity(data)
        if data.error is None and (data.reason is None or data.state == "running"):
            return data
        counts = FilterCounts()
        error = None if data.error is None else await self.error(data.error, counts=counts)
        (reason,) = await self.shown([data.reason], counts=counts)
        return msgspec.structs.replace(data, error=error, reason=reason)

    async def _activity(self, activity: ToolActivity) -> ToolActivity:
        error, counts = activity.error, FilterCounts()
        given = [activity.input, activity.output, *((error.message, error.details) if error else (None, None))]
        if not self._tools.is_plain:
            try:
                given, is_blocked = await self._through(self._tools, given, counts)
            except TooCostly as e:
                why = f"filtering what the tool {activity.tool!r} took and gave {e.message}: have it give less"
                raise Permanent(why, code="guardrail_blocked", details={"budget": e.kind}) from e
            given = withheld(given, BLOCKED) if is_blocked else given
        tool, use_id = activity.tool, activity.tool_use_id
        name, seen_id, message, details = await self.shown([tool, use_id, given[2], given[3]], counts=counts)
        if error is not None:
            error = msgspec.structs.replace(error, message=message, details=details)
        return msgspec.structs.replace(
            activity,
            tool=tool if tool in self.known else name,
            tool_use_id=use_id if use_id is None or seen_id == use_id else stand_in(use_id),
            input=given[0],
            output=given[1],
            error=error,
        )

    async def _through(self, chain: Chain, said: Sequence[Any], counts: FilterCounts) -> tuple[list[Any], bool]:
        """What is shown, and whether a judge blocks all of it; what a rule blocks is marked in its place."""
        seen = await self._filtering.values(chain, said)
        seen.findings.count(counts)
        if not chain.judges:
            return seen.values, False
        gathered = Gathered()
        gathered.value(seen.values)
        told, blocked = await judged_texts(chain, counts, gathered, self._context())
        if blocked is not None:
            return seen.values, True
        return (Told(told).value(seen.values) if told else seen.values), False


class _Mark:
    def __init__(self, mark: str) -> None:
        self._mark = mark

    def shown(self, text: str, *, name: str, path: str) -> str:
        return self._mark if text else text


def withheld(said: Sequence[Any], mark: str) -> list[Any]:
    """Nothing of what was said, in the same form; of details nothing at all."""
    return [{} if isinstance(value, dict) else walked(value, _Mark(mark)) for value in said]
