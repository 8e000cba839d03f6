"""One job's input before its model: what was asked, and in later turns what tools gave."""

from collections.abc import Callable, Sequence
from typing import Any

from sidecar.errors import TooCostly
from sidecar.models.call import ModelCall
from sidecar.models.codec import encode
from sidecar.models.filtering import FilterContext
from sidecar.models.result import FilterReport
from sidecar.response_formatter.filters.filtering import TextFiltering, judged_parts, judged_texts
from sidecar.response_formatter.filters.input_check import too_long
from sidecar.response_formatter.filters.inputs import Place, places, refusal, told_call
from sidecar.response_formatter.filters.stream import Chain, FilterCounts
from sidecar.response_formatter.filters.values import Gathered, Told


class InputFilter:
    """Shows each turn's call as the model may see it. What was looked at in one turn is not again in the next."""

    def __init__(self, chain: Chain, filtering: TextFiltering, context: Callable[[], FilterContext]) -> None:
        self._chain = chain
        self._filtering = filtering
        self._context = context
        self._texts: dict[str, str] = {}
        self._values: dict[bytes, Any] = {}
        self._counts = FilterCounts(on="input")
        self.reports: tuple[FilterReport, ...] = ()

    async def shown(self, call: ModelCall) -> ModelCall:
        """Raises a judge's own errors, and Permanent (`guardrail_blocked`; InvalidRequest for what takes too
        long)."""
        chain = self._chain
        if chain.is_plain:
            return call
        texts, values = places(call.messages, call.system, call.tools)
        try:
            await self._look_at_texts(texts)
            keys = await self._look_at_values(values)
        except TooCostly as e:
            raise too_long(e) from e
        found = FilterCounts(on="input")
        for name, action, kinds in self._counts.found_so_far():
            found.add(name, action, kinds)
        found.hidden = dict(self._counts.hidden)
        self.reports = found.reports(chain.sanitise)
        shown = [self._values[key] for key in keys]
        if all(text == self._texts[text] for _, text in texts) and shown == [place.said for place in values]:
            return call
        return told_call(call, self._texts, shown)

    async def _look_at_texts(self, texts: Sequence[Place]) -> None:
        paths: dict[str, str] = {}
        for path, text in texts:
            if text not in self._texts:
                paths.setdefault(text, path)
        shown = await self._filtering.shown(self._chain, [((0, text),) for text in paths])
        for (text, path), one in zip(paths.items(), shown, strict=False):
            parts, blocked, _ = await judged_parts(self._chain, self._counts, one, self._context())
            if blocked is not None:
                raise refusal(blocked, path)
            self._texts[text] = shown_text = "".join(part for _, part in parts)
            # What comes back in the next turn has been through.
            self._texts.setdefault(shown_text, shown_text)

    async def _look_at_values(self, values: Sequence[Place]) -> list[bytes]:
        keys = [encode(place.said) for place in values]
        fresh = {key: place for key, place in zip(keys, values, strict=True) if key not in self._values}
        if not fresh:
            return keys
        given = list(fresh.values())
        screened = await self._filtering.values(
            self._chain, [place.said for place in given], [place.path for place in given]
        )
        findings = screened.findings
        findings.count(self._counts)
        if findings.blocked is not None:
            raise refusal(findings.blocked, findings.blocked_at)
        for key, place, shown in zip(fresh, given, screened.values, strict=True):
            self._values[key] = told = await self._judged(shown, place.path)
            self._values.setdefault(encode(told), told)
        return keys

    async def _judged(self, value: Any, path: str) -> Any:
        if not self._chain.judges:
            return value
        gathered = Gathered()
        gathered.value(value)
        told, blocked = await judged_texts(self._chain, self._counts, gathered, self._context())
        if blocked is not None:
            raise refusal(blocked, path)
        return Told(told).value(value) if told else value
