"""One job's filters at work: on its input, its deltas, its events and its result."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.errors import Permanent, TooCostly
from sidecar.models.call import ModelCall
from sidecar.models.event import Status, ToolActivity
from sidecar.models.filtering import Direction, FilterContext
from sidecar.models.job import Carried
from sidecar.models.plain import UNREADABLE
from sidecar.models.request import InlineTool, JobRequest
from sidecar.models.result import ErrorInfo, FilterReport, Output, Result
from sidecar.response_formatter.filters.asides import Asides
from sidecar.response_formatter.filters.filtering import TextFiltering, judged_parts, judged_texts
from sidecar.response_formatter.filters.input_filter import InputFilter
from sidecar.response_formatter.filters.inputs import details_of
from sidecar.response_formatter.filters.rewriting import Beside, Rewriter, with_text
from sidecar.response_formatter.filters.sanitise import is_clean
from sidecar.response_formatter.filters.scanner import BlockMatch
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Part, StreamFilter
from sidecar.response_formatter.filters.values import Findings, Gathered, Kept, Told
from sidecar.response_formatter.formatter import digest
from sidecar.runtime.bounded_work import BoundedWork


class JobChains(NamedTuple):
    """What a job's texts go through: before the model, before its client, and what tools take and give."""

    input: Chain
    output: Chain
    tools: Chain
    is_plain: bool
    """Whether nobody looks at what comes out, but the sanitiser."""


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
        self._chain = chains.output
        self._tools = chains.tools
        self._filtering = filtering = TextFiltering(tenant, work)
        self._input: InputFilter | None = None
        if chains.input.rules or chains.input.judges:
            self._input = InputFilter(chains.input, filtering, lambda: self._context("input", "message"))
        self._asides: Asides | None = None
        if not chains.is_plain:
            self._asides = Asides(chains.output, chains.tools, filtering, lambda: self._context("output", "value"))
        self.is_input_plain = self._input is None
        """Whether nobody looks at what the model is asked."""
        self.is_withheld = False
        self.screen_event: Callable[[Status | ToolActivity], Awaitable[Status | ToolActivity]] | None = (
            None if self._asides is None else self._asides.event
        )
        """What events go through, but deltas and results; None where nothing looks at them."""
        self.gate = (
            StreamFilter(self._chain, lambda channel: self._context("output", channel)) if is_streamed else None
        )

    def _context(self, direction: Direction, channel: Any) -> FilterContext:
        return FilterContext(
            tenant=self._tenant, job=self._job, job_class=self._job_class, direction=direction, channel=channel
        )

    def know(self, request: JobRequest, offered: Iterable[str] = ()) -> None:
        """Tools of these names are offered to the model: they are no words of its own."""
        if self._asides is not None:
            inline = [tool.name for tool in request.tools if isinstance(tool, InlineTool)]
            self._asides.known |= {*inline, *offered}

    async def input(self, call: ModelCall) -> ModelCall:
        """A turn's call as the model may see it. Raises a judge's own errors, and Permanent (`guardrail_blocked`;
        InvalidRequest for what takes too long to filter).
        """
        return call if self._input is None else await self._input.shown(call)

    async def error(self, error: ErrorInfo) -> ErrorInfo:
        """What may be told of a failed call; of what cannot be filtered only the code is left."""
        return error if self._asides is None else await self._asides.error(error)

    def carried(self, carried: Carried | None) -> Carried | None:
        """What may be left to a later owner of the job."""
        return carried if self._asides is None else self._asides.carried(carried)

    @property
    def _known(self) -> frozenset[str]:
        return frozenset() if self._asides is None else self._asides.known

    async def answered(self, result: Result) -> Result:
        """A whole answer's result as the client may see it. Raises a judge's own errors, and Permanent
        (`guardrail_blocked`) for what takes too long to filter.
        """
        if self.gate is not None and self.gate.trouble is not None:
            raise self.gate.trouble
        output = result.output
        if self._asides is None and self._input is None and output.structured is None and not output.messages:
            # Most answers: one text, printable ASCII, that nobody looks at.
            text, content = output.text, output.content
            is_one = (
                len(content) == 1 and content[0]["type"] == "text" and len(text) <= self._chain.sanitise.max_chars
            )
            if is_one and is_clean(text):
                return result
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
            context = self._context("output", name)
            seen, blocked, is_changed = await judged_parts(self._chain, counts, one, context)
            if blocked is not None:
                return await self._withheld(result, blocked, counts)
            is_judged = is_judged or is_changed
            whole = parts if seen == parts else _whole(parts, seen)
            is_same = is_same and whole == parts
            told.update(whole)
        if is_same and self._is_plain(result, told):
            reports = self._reports(result, counts)
            return msgspec.structs.replace(result, filters=reports) if reports else result
        return await self._rewritten(result, told, counts, is_judged=is_judged)

    def _is_plain(self, result: Result, told: Mapping[int, str]) -> bool:
        """Whether nobody looks at what stands beside the text, or nothing stands there."""
        output = result.output
        if self._asides is not None or output.structured is not None:
            return False
        return len(told) == len(output.content) and not output.messages

    def _reports(self, result: Result, counts: FilterCounts) -> tuple[FilterReport, ...]:
        if self._asides is not None:
            counts.take(self._asides.counts)
        on_input = () if self._input is None else self._input.reports
        return (*on_input, *result.filters, *counts.reports(self._chain.sanitise))

    async def stopped(self, result: Result) -> Result:
        """The result of a job that came to no whole answer: its text has been through the gate. Raises nothing."""
        counts = self.gate.tally if self.gate is not None else FilterCounts()
        result = await self._with_asides(result)
        filters = self._reports(msgspec.structs.replace(result, filters=()), counts)
        return msgspec.structs.replace(result, filters=filters) if filters else result

    async def _with_asides(self, result: Result) -> Result:
        """The result with what it says beside its answer as it may be seen."""
        if self._asides is None or self._chain.is_plain:
            return result
        error = None if result.error is None else await self._asides.error(result.error)
        warnings = await self._asides.shown(result.warnings)
        return msgspec.structs.replace(
            result, error=error, warnings=tuple(warnings), attempts=self._asides.attempts(result.attempts)
        )

    async def _rewritten(
        self, result: Result, told: Mapping[int, str], counts: FilterCounts, *, is_judged: bool
    ) -> Result:
        output = result.output
        given = Beside(
            blocks={at: block for at, block in enumerate(output.content) if at not in told},
            structured=output.structured,
            messages=output.messages,
        )
        found = await self._filtering.rewritten(self._chain, self._tools, given, known=self._known)
        blocked = found.findings.blocked or found.mirrored.blocked
        beside = found.beside
        found.findings.count(counts)
        _count_mirrored(counts, found.mirrored)
        found.of_tools.count(counts)
        if blocked is None:
            beside, blocked = await self._judged_beside(beside, counts, is_judged=is_judged)
        if blocked is not None:
            return await self._withheld(result, blocked, counts)
        shown = (
            with_text(block, told[at]) if at in told else beside.blocks[at]
            for at, block in enumerate(output.content)
        )
        blocks = tuple(block for block in shown if block is not None)
        text = "".join(block["text"] for block in blocks if block.get("type") == "text")
        structured = beside.structured
        if is_judged and output.structured is not None:
            structured = _parsed(text)
        result = await self._with_asides(result)
        return msgspec.structs.replace(
            result,
            output=msgspec.structs.replace(
                output, text=text, content=blocks, structured=structured, messages=beside.messages
            ),
            partial=result.partial or counts.is_cut,
            filters=self._reports(result, counts),
            warnings=(*result.warnings, *self._warnings(found.of_tools, structured != output.structured, counts)),
            text_sha256=digest(text),
        )

    def _warnings(self, of_tools: Findings, is_other: bool, counts: FilterCounts) -> list[str]:
        warnings = []
        if is_other:
            warnings.append("filters changed the structured output: it may not fit the schema any more")
        if counts.is_cut:
            warnings.append(f"the answer was longer than {self._chain.sanitise.max_chars} characters and was cut")
        if of_tools.blocked is not None:
            name, kind = of_tools.blocked
            warnings.append(f"filter {name!r} withheld what a tool took or gave: {kind}")
        return warnings

    async def _judged_beside(
        self, beside: Beside, counts: FilterCounts, *, is_judged: bool
    ) -> tuple[Beside, BlockMatch | None]:
        """What judges let be seen beside the text. A structured output that the text makes is made of it again."""
        if not self._chain.judges and not self._tools.judges:
            return beside, None
        output, tools = Gathered(), Gathered()
        asked = msgspec.structs.replace(beside, structured=None) if is_judged else beside
        Rewriter(output, tools, known=self._known).rewritten(asked)
        told, blocked = await judged_texts(self._chain, counts, output, self._context("output", "value"))
        if blocked is not None:
            return beside, blocked
        context = self._context("tools", "value")
        of_tools, blocked = await judged_texts(self._tools, counts, tools, context)
        if blocked is not None:
            return beside, blocked
        look = Told(of_tools) if of_tools else Kept()
        return Rewriter(Told(told), look, known=self._known).rewritten(beside), None

    async def _withheld(self, result: Result, blocked: BlockMatch, counts: FilterCounts) -> Result:
        """A blocked answer: nothing of it is shown. Where it should have had a form, that is a failure."""
        self.is_withheld = True
        why = f"filter {blocked.name!r} withheld the answer: {blocked.kind}"
        has_form = result.output.structured is not None or (
            result.error is not None and result.error.code == "output_invalid"
        )
        result = await self._with_asides(msgspec.structs.replace(result, error=None))
        return msgspec.structs.replace(
            result,
            state="failed" if has_form else result.state,
            output=Output(),
            stop_reason="content_filtered",
            error=ErrorInfo(code="guardrail_blocked", message=why, details=details_of(blocked))
            if has_form
            else None,
            partial=True,
            filters=self._reports(result, counts),
            warnings=(*result.warnings, why),
            text_sha256=digest(""),
        )


def _count_mirrored(counts: FilterCounts, found: Findings) -> None:
    """What repeats the answer's text was found there too: only what is more of it counts."""
    known = {(name, action): kinds for name, action, kinds in counts.found_so_far()}
    for name, action, kinds in found.found:
        before = known.get((name, action), {})
        more = {kind: count - before.get(kind, 0) for kind, count in kinds.items() if count > before.get(kind, 0)}
        if more:
            counts.add(name, action, more)
    for kind, count in found.hidden.items():
        counts.hidden[kind] = max(count, counts.hidden.get(kind, 0))


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
