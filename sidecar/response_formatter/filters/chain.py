"""One job's filters at work: on its input, its deltas, and its result."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import InvalidRequest, Permanent, TooCostly
from sidecar.models.call import ModelCall
from sidecar.models.codec import encode
from sidecar.models.event import ToolActivity
from sidecar.models.filtering import Direction, FilterContext
from sidecar.models.plain import UNREADABLE
from sidecar.models.request import JobRequest
from sidecar.models.result import ErrorInfo, FilterReport, Output, Result
from sidecar.response_formatter.filters import apart
from sidecar.response_formatter.filters.apart import ShownText, is_done_at_once, with_source
from sidecar.response_formatter.filters.inputs import details_of, refusal, texts, with_texts
from sidecar.response_formatter.filters.rewriting import Beside, Rewriter, with_text
from sidecar.response_formatter.filters.scanner import BlockMatch
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Judging, Part, StreamFilter
from sidecar.response_formatter.formatter import digest
from sidecar.runtime.bounded_work import BoundedWork


class TextFiltering:
    """Texts of one tenant through chains: at once where they are short, else in a worker process."""

    def __init__(self, tenant: str, work: BoundedWork) -> None:
        self._tenant = tenant
        self._work = work

    async def shown(self, chain: Chain, given: Sequence[Sequence[Part]]) -> list[ShownText]:
        """Each text in its parts, up to the first that is blocked. Raises TooCostly."""
        source = chain.source
        if source is None or is_done_at_once(chain, [text for parts in given for _, text in parts]):
            shown = []
            for parts in given:
                shown.append(apart.show(chain, parts))
                if shown[-1].blocked is not None:
                    break
            return shown
        raw = [[(index, text.encode("utf-8", "surrogatepass")) for index, text in parts] for parts in given]
        return await self._work.run(self._tenant, apart.show_texts, source, raw)

    async def rewritten(self, chain: Chain, tools: Chain, beside: Beside) -> Beside:
        """What stands beside an answer's text. Raises TooCostly."""
        if chain.source is None or tools.source is None or len(encode(beside)) <= apart.MOST_INLINE_BYTES:
            return Rewriter(chain, tools).rewritten(beside)
        return await self._work.run(self._tenant, apart.rewrite, chain.source, tools.source, beside)

    async def values(self, tools: Chain, values: list[Any]) -> list[Any]:
        """What a call of a tool is told with. Raises TooCostly."""
        if tools.source is None or len(encode(values)) <= apart.MOST_INLINE_BYTES:
            rewriter = Rewriter(tools, tools)
            return [rewriter.of_tools(value) for value in values]
        return await self._work.run(self._tenant, apart.screen_values, tools.source, values)


class InputCheck:
    """What stands before the queue: whether a rule blocks what a request says."""

    def __init__(self, chain: Chain, request: JobRequest) -> None:
        self._chain = with_source(
            chain._replace(rules=tuple(rule for rule in chain.rules if rule.action == "block"), judges=())
        )
        self._texts = texts(request.messages or (), request.system) if self._chain.rules else []

    @property
    def is_done_at_once(self) -> bool:
        return is_done_at_once(self._chain, [text for _, text in self._texts])

    def now(self) -> None:
        """Raise Permanent (`guardrail_blocked`) for an input that is blocked."""
        for path, text in self._texts:
            blocked = apart.show(self._chain, ((0, text),)).blocked
            if blocked is not None:
                raise refusal(blocked, path)

    async def later(self, filtering: TextFiltering) -> None:
        """The same where it takes longer. Raises InvalidRequest where it takes too long."""
        try:
            shown = await filtering.shown(self._chain, [((0, text),) for _, text in self._texts])
        except TooCostly as e:
            raise _too_long(e) from e
        for (path, _), one in zip(self._texts, shown, strict=False):
            if one.blocked is not None:
                raise refusal(one.blocked, path)


class JobChains(NamedTuple):
    """What a job's texts go through: before the model, before its client, and what tools take and give."""

    input: Chain
    output: Chain
    tools: Chain


class FilterChain:
    """Made by `FilterPolicies.screen`. `gate` is what deltas go through, `is_withheld` tells of a block."""

    def __init__(
        self,
        *,
        tenant: str,
        job: str,
        job_class: str,
        chains: JobChains,
        is_streamed: bool,
        work: BoundedWork,
    ) -> None:
        """`is_streamed`: the answer comes in deltas."""
        self._tenant = tenant
        self._job = job
        self._job_class = job_class
        self._chains = chains
        self._chain = chains.output
        self._filtering = TextFiltering(tenant, work)
        self._input_reports: tuple[FilterReport, ...] = ()
        self.is_withheld = False
        self.screen_tool: Callable[[ToolActivity], Awaitable[ToolActivity]] | None = (
            self._activity if chains.tools.rules else None
        )
        """What calls of tools go through before clients are told of them; None where nothing looks at them."""
        self.gate = (
            StreamFilter(self._chain, lambda channel: self._context("output", channel)) if is_streamed else None
        )

    def _context(self, direction: Direction, channel: Any) -> FilterContext:
        return FilterContext(
            tenant=self._tenant, job=self._job, job_class=self._job_class, direction=direction, channel=channel
        )

    async def input(self, call: ModelCall) -> ModelCall:
        """The call as the model may see it. Raises a judge's own errors, and Permanent (`guardrail_blocked`;
        InvalidRequest for what takes too long to filter).
        """
        chain = self._chains.input
        if chain.is_plain:
            return call
        counts = FilterCounts(on="input")
        paths: dict[str, str] = {}
        for path, text in texts(call.messages, call.system):
            paths.setdefault(text, path)
        try:
            shown = await self._filtering.shown(chain, [((0, text),) for text in paths])
        except TooCostly as e:
            raise _too_long(e) from e
        told: dict[str, str] = {}
        for (text, path), one in zip(paths.items(), shown, strict=False):
            parts, blocked, _ = await self._judged(chain, counts, one, ("input", "message"))
            if blocked is not None:
                raise refusal(blocked, path)
            told[text] = "".join(part for _, part in parts)
        self._input_reports = counts.reports(chain.sanitise)
        if all(text == shown for text, shown in told.items()):
            return call
        return msgspec.structs.replace(
            call,
            system=told.get(call.system, call.system) if call.system else call.system,
            messages=tuple(with_texts(message, told) for message in call.messages),
        )

    async def _judged(
        self, chain: Chain, counts: FilterCounts, one: ShownText, where: tuple[Direction, str]
    ) -> tuple[Sequence[Part], BlockMatch | None, bool]:
        """Parts of one text, what blocked it, and whether a judge changed it."""
        one.count(counts)
        if one.blocked is not None or not chain.judges:
            return one.parts, one.blocked, False
        judging = Judging(chain, counts, self._context(*where))
        judging.take(one.parts)
        return await judging.judged(is_end=True), judging.blocked, judging.is_changed

    async def answered(self, result: Result) -> Result:
        """A whole answer's result as the client may see it. Raises a judge's own errors, and Permanent
        (`guardrail_blocked`) for what takes too long to filter.
        """
        if self.gate is not None and self.gate.trouble is not None:
            raise self.gate.trouble
        try:
            return await self._answered(result)
        except TooCostly as e:
            why = f"filtering the answer {e.message}: ask for a shorter one"
            raise Permanent(why, code="guardrail_blocked", details={"budget": e.kind}) from e

    async def _answered(self, result: Result) -> Result:
        counts = FilterCounts()
        said: dict[str, list[Part]] = {"text": [], "reasoning": []}
        for at, block in enumerate(result.output.content):
            if (parts := said.get(block.get("type", ""))) is not None and block.get("text"):
                parts.append((at, block["text"]))
        given = {name: parts for name, parts in said.items() if parts}
        shown = await self._filtering.shown(self._chain, list(given.values()))
        told: dict[int, str] = {}
        is_same, is_judged = True, False
        for (name, parts), one in zip(given.items(), shown, strict=False):
            seen, blocked, is_changed = await self._judged(self._chain, counts, one, ("output", name))
            if blocked is not None:
                return self._withheld(result, blocked, counts)
            is_judged = is_judged or is_changed
            whole = parts if seen == parts else _whole(parts, seen)
            is_same = is_same and whole == parts
            told.update(whole)
        filters = (*self._input_reports, *result.filters, *counts.reports(self._chain.sanitise))
        is_plain = self._chain.is_plain and self.screen_tool is None and result.output.structured is None
        if is_same and is_plain:
            return msgspec.structs.replace(result, filters=filters) if filters else result
        return await self._rewritten(result, told, filters, is_cut=counts.is_cut, is_judged=is_judged)

    def stopped(self, result: Result) -> Result:
        """The result of a job that came to no whole answer: its text has been through the gate."""
        found = self.gate.tally.reports(self._chain.sanitise) if self.gate is not None else ()
        filters = (*self._input_reports, *found)
        if self._chain.rules and result.error is not None:
            rewriter = Rewriter(self._chain, self._chain)
            message, details = (rewriter.value(part) for part in (result.error.message, result.error.details))
            result = msgspec.structs.replace(
                result, error=msgspec.structs.replace(result.error, message=message, details=details)
            )
        return msgspec.structs.replace(result, filters=filters) if filters else result

    async def _rewritten(
        self,
        result: Result,
        told: Mapping[int, str],
        filters: tuple[FilterReport, ...],
        *,
        is_cut: bool,
        is_judged: bool,
    ) -> Result:
        output, error, warnings = result.output, result.error, list(result.warnings)
        given = Beside(
            blocks={at: block for at, block in enumerate(output.content) if at not in told},
            structured=output.structured,
            messages=output.messages,
            error=None if error is None else [error.message, error.details],
        )
        beside = await self._filtering.rewritten(self._chain, self._chains.tools, given)
        shown = (
            with_text(block, told[at]) if at in told else beside.blocks[at]
            for at, block in enumerate(output.content)
        )
        blocks = tuple(block for block in shown if block is not None)
        text = "".join(block["text"] for block in blocks if block.get("type") == "text")
        structured = beside.structured
        if is_judged and output.structured is not None:
            structured = _parsed(text)
        if structured != output.structured:
            warnings.append("filters changed the structured output: it may not fit the schema any more")
        if is_cut:
            warnings.append(f"the answer was longer than {self._chain.sanitise.max_chars} characters and was cut")
        if error is not None:
            error = msgspec.structs.replace(error, message=beside.error[0], details=beside.error[1])
        return msgspec.structs.replace(
            result,
            output=msgspec.structs.replace(
                output, text=text, content=blocks, structured=structured, messages=beside.messages
            ),
            error=error,
            partial=result.partial or is_cut,
            filters=filters,
            warnings=tuple(warnings),
            text_sha256=digest(text),
        )

    async def _activity(self, activity: ToolActivity) -> ToolActivity:
        """Raises Permanent (`guardrail_blocked`) for one that takes too long to filter."""
        error = activity.error
        given = [activity.input, activity.output, None if error is None else error.message]
        try:
            taken, gave, message = await self._filtering.values(self._chains.tools, given)
        except TooCostly as e:
            why = f"filtering what the tool {activity.tool!r} took and gave {e.message}: have it give less"
            raise Permanent(why, code="guardrail_blocked", details={"budget": e.kind}) from e
        if error is not None:
            error = msgspec.structs.replace(error, message=message)
        return msgspec.structs.replace(activity, input=taken, output=gave, error=error)

    def _withheld(self, result: Result, blocked: BlockMatch, tally: FilterCounts) -> Result:
        """A blocked answer: nothing of it is shown. Where it should have had a form, that is a failure."""
        self.is_withheld = True
        why = f"filter {blocked.name!r} withheld the answer: {blocked.kind}"
        has_form = result.output.structured is not None or (
            result.error is not None and result.error.code == "output_invalid"
        )
        return msgspec.structs.replace(
            result,
            state="failed" if has_form else result.state,
            output=Output(),
            stop_reason="content_filtered",
            error=ErrorInfo(code="guardrail_blocked", message=why, details=details_of(blocked))
            if has_form
            else None,
            partial=True,
            filters=(*self._input_reports, *result.filters, *tally.reports(self._chain.sanitise)),
            warnings=(*result.warnings, why),
            text_sha256=digest(""),
        )


def _too_long(error: TooCostly) -> InvalidRequest:
    return InvalidRequest(f"filtering the input {error.message}: send less text in one request", path="messages")


def _whole(parts: Sequence[Part], seen: Sequence[Part]) -> list[Part]:
    """What is left of each block's text, in one piece."""
    pieces: dict[int, list[str]] = {index: [] for index, _ in parts}
    for index, text in seen:
        pieces[index].append(text)
    return [(index, "".join(texts)) for index, texts in pieces.items()]


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return None
