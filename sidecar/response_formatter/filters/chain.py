"""One job's filters at work: on its input, its deltas, and its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.models.call import ModelCall
from sidecar.models.event import ToolActivity
from sidecar.models.filtering import Direction, FilterContext
from sidecar.models.plain import UNREADABLE
from sidecar.models.result import ErrorInfo, FilterReport, Output, Result
from sidecar.response_formatter.filters.inputs import details_of, refusal, texts, with_texts
from sidecar.response_formatter.filters.scanner import BlockMatch
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Judging, OutgoingText, StreamFilter
from sidecar.response_formatter.filters.values import screened_value
from sidecar.response_formatter.formatter import digest


class FilterChain:
    """Made by `FilterPolicies.screen`. `gate` is what deltas go through, `is_withheld` tells of a block."""

    def __init__(
        self,
        *,
        tenant: str,
        job: str,
        job_class: str,
        chain_for: Callable[[Direction], Chain],
        is_streamed: bool,
    ) -> None:
        """`is_streamed`: the answer comes in deltas."""
        self._tenant = tenant
        self._job = job
        self._job_class = job_class
        self._chain_for = chain_for
        self._chain = chain_for("output")
        self._input_reports: tuple[FilterReport, ...] = ()
        self.is_withheld = False
        self.gate = (
            StreamFilter(self._chain, lambda channel: self._context("output", channel)) if is_streamed else None
        )

    def _context(self, direction: Direction, channel: Any) -> FilterContext:
        return FilterContext(
            tenant=self._tenant, job=self._job, job_class=self._job_class, direction=direction, channel=channel
        )

    async def input(self, call: ModelCall) -> ModelCall:
        """The call as the model may see it. Raises Permanent (`guardrail_blocked`), and a judge's own errors."""
        chain = self._chain_for("input")
        if chain.is_plain:
            return call
        tally = FilterCounts(on="input")
        told: dict[str, str] = {}
        for path, text in texts(call.messages, call.system):
            if text not in told:
                told[text] = await self._read(chain, tally, path, text)
        self._input_reports = tally.reports(chain.sanitise)
        if all(text == shown for text, shown in told.items()):
            return call
        return msgspec.structs.replace(
            call,
            system=told.get(call.system, call.system) if call.system else call.system,
            messages=tuple(with_texts(message, told) for message in call.messages),
        )

    async def _read(self, chain: Chain, tally: FilterCounts, path: str, text: str) -> str:
        shown, blocked, _ = await self._through(chain, tally, ((0, text),), self._context("input", "message"))
        if blocked is not None:
            raise refusal(blocked, path)
        return "".join(text for _, text in shown)

    async def _through(
        self, chain: Chain, tally: FilterCounts, parts: Sequence[tuple[int, str]], context: FilterContext
    ) -> tuple[list[tuple[int, str]], BlockMatch | None, bool]:
        """Parts of one text, what blocked it, and whether a judge changed it."""
        channel = OutgoingText(chain, tally)
        shown = [part for index, text in parts for part in channel.feed(index, text)]
        shown += channel.end()
        if channel.blocked is not None or not chain.judges:
            return shown, channel.blocked, False
        judging = Judging(chain, tally, context)
        judging.take(shown)
        return await judging.judged(is_end=True), judging.blocked, judging.is_changed

    async def answered(self, result: Result) -> Result:
        """A whole answer's result as the client may see it. Raises a judge's own errors."""
        if self.gate is not None and self.gate.trouble is not None:
            raise self.gate.trouble
        tally = FilterCounts()
        content = result.output.content
        told: dict[int, str] = {}
        is_judged = False
        for name in ("text", "reasoning"):
            parts = [(at, block["text"]) for at, block in enumerate(content) if _has_text(block, name)]
            if not parts:
                continue
            context = self._context("output", name)
            shown, blocked, is_changed = await self._through(self._chain, tally, parts, context)
            if blocked is not None:
                return self._withheld(result, blocked, tally)
            is_judged = is_judged or is_changed
            told.update((index, "") for index, _ in parts)
            for index, text in shown:
                told[index] += text
        filters = (*self._input_reports, *result.filters, *tally.reports(self._chain.sanitise))
        is_same = all(content[index]["text"] == text for index, text in told.items())
        is_plain = self._chain.is_plain and self.screen_tool is None and result.output.structured is None
        if is_same and is_plain:
            return msgspec.structs.replace(result, filters=filters) if filters else result
        return self._rewritten(result, told, filters, is_cut=tally.is_cut, is_judged=is_judged)

    def stopped(self, result: Result) -> Result:
        """The result of a job that came to no whole answer: its text has been through the gate."""
        found = self.gate.tally.reports(self._chain.sanitise) if self.gate is not None else ()
        filters = (*self._input_reports, *found)
        if self._chain.rules and result.error is not None:
            result = msgspec.structs.replace(result, error=self._error(result.error))
        return msgspec.structs.replace(result, filters=filters) if filters else result

    def _rewritten(
        self,
        result: Result,
        told: Mapping[int, str],
        filters: tuple[FilterReport, ...],
        *,
        is_cut: bool,
        is_judged: bool,
    ) -> Result:
        warnings = list(result.warnings)
        shown = (self._block(block, told.get(at)) for at, block in enumerate(result.output.content))
        blocks = tuple(block for block in shown if block is not None)
        text = "".join(block["text"] for block in blocks if block.get("type") == "text")
        structured = self._value(result.output.structured)
        messages = tuple(
            {**message, "content": self._content(message["content"])} for message in result.output.messages
        )
        if is_judged and result.output.structured is not None:
            structured = _parsed(text)
        if structured != result.output.structured:
            warnings.append("filters changed the structured output: it may not fit the schema any more")
        if is_cut:
            warnings.append(f"the answer was longer than {self._chain.sanitise.max_chars} characters and was cut")
        return msgspec.structs.replace(
            result,
            output=msgspec.structs.replace(
                result.output,
                text=text,
                content=blocks,
                structured=structured,
                messages=messages,
            ),
            error=self._error(result.error) if result.error is not None else None,
            partial=result.partial or is_cut,
            filters=filters,
            warnings=tuple(warnings),
            text_sha256=digest(text),
        )

    def _block(self, block: dict[str, Any], text: str | None) -> dict[str, Any] | None:
        """A block of the answer; None where nothing is left of it."""
        if text is not None:
            if text == block["text"]:
                return block
            if not text:
                return None
            # A signature is of the text as the model wrote it.
            return {key: value for key, value in {**block, "text": text}.items() if key != "signature"}
        if block.get("type") == "tool_use":
            return {**block, "input": self._of_tools(block["input"])}
        if block.get("type") == "other":
            return {**block, "value": self._value(block.get("value"))}
        return block

    @property
    def screen_tool(self) -> Callable[[ToolActivity], ToolActivity] | None:
        """What calls of tools go through before clients are told of them; None where nothing looks at them."""
        return self._activity if self._chain_for("tools").rules else None

    def _activity(self, activity: ToolActivity) -> ToolActivity:
        error = activity.error
        if error is not None:
            error = msgspec.structs.replace(error, message=self._of_tools(error.message))
        return msgspec.structs.replace(
            activity, input=self._of_tools(activity.input), output=self._of_tools(activity.output), error=error
        )

    def _of_tools(self, value: Any) -> Any:
        chain = self._chain_for("tools")
        return screened_value(value, chain) if value is not None and chain.rules else value

    def _content(self, content: Any) -> Any:
        """What the job added to the conversation: its texts, and what tools said."""
        if isinstance(content, str):
            return self._value(content)
        shown = []
        for block in content:
            if block.get("type") == "tool_result":
                shown.append({**block, "content": self._of_tools(block["content"])})
            elif "text" in block:
                kept = self._block(block, self._value(block["text"]))
                shown += [kept] if kept is not None else []
            else:
                shown.append(self._block(block, None) or block)
        return shown

    def _value(self, value: Any) -> Any:
        return value if value is None else screened_value(value, self._chain)

    def _error(self, error: ErrorInfo) -> ErrorInfo:
        """An error's message may quote the answer."""
        return msgspec.structs.replace(
            error, message=self._value(error.message), details=self._value(error.details)
        )

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


def _has_text(block: Mapping[str, Any], kind: str) -> bool:
    return block.get("type") == kind and bool(block.get("text"))


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return None
