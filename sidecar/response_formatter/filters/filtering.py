"""Texts and values of one job through a chain: at once where they are short, else in a worker process."""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.models.codec import encode
from sidecar.models.filtering import FilterContext
from sidecar.response_formatter.filters import apart
from sidecar.response_formatter.filters.apart import ShownText, is_done_at_once
from sidecar.response_formatter.filters.rewriting import Beside, RewrittenBeside
from sidecar.response_formatter.filters.scanner import BlockMatch
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Judging, Part
from sidecar.response_formatter.filters.values import Gathered, ScreenedValues
from sidecar.runtime.bounded_work import BoundedWork

# So many texts of a value are judged one by one where something was found in it; in a larger one all are withheld.
MOST_JUDGED = 64
WITHHELD = "[WITHHELD]"


class TextFiltering:
    """What one tenant's texts go through. All of it raises TooCostly."""

    def __init__(self, tenant: str, work: BoundedWork) -> None:
        self._tenant = tenant
        self._work = work

    async def shown(self, chain: Chain, given: Sequence[Sequence[Part]]) -> list[ShownText]:
        """Each text in its parts, up to the first that is blocked."""
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

    async def rewritten(
        self, chain: Chain, tools: Chain, beside: Beside, *, known: frozenset[str]
    ) -> RewrittenBeside:
        """What stands beside an answer's text. `known` are names of tools."""
        if chain.source is None or tools.source is None or _is_short(beside):
            return apart.rewritten(chain, tools, beside, known)
        return await self._work.run(self._tenant, apart.rewrite, chain.source, tools.source, beside, sorted(known))

    async def values(self, chain: Chain, values: Sequence[Any], paths: Sequence[str] = ()) -> ScreenedValues:
        """Values as a chain's rules let them be seen."""
        paths = paths or [""] * len(values)
        if chain.source is None or _is_short(values):
            return apart.screened(chain, values, paths)
        return await self._work.run(self._tenant, apart.screen_values, chain.source, list(values), list(paths))


def _is_short(value: Any) -> bool:
    return len(encode(value)) <= apart.MOST_INLINE_BYTES


async def judged_texts(
    chain: Chain, counts: FilterCounts, gathered: Gathered, context: FilterContext
) -> tuple[Mapping[str, str], BlockMatch | None]:
    """What judges make of texts that were gathered, and what blocked them. Raises the judges' own errors.

    All of them go in one text first: most often nothing is found, and judges cost by what they are asked.
    """
    texts = list(gathered.texts)
    if not texts or not chain.judges:
        return {}, None
    whole = Judging(chain, FilterCounts(), context)
    whole.take([(0, "\n".join(texts))])
    shown = "".join([text for _, text in await whole.judged(is_end=True)])
    if whole.blocked is not None:
        counts.add(whole.blocked.name, "block", {whole.blocked.kind: 1})
        return {}, whole.blocked
    if not whole.found and shown == "\n".join(texts):
        return {}, None
    told: dict[str, str] = {}
    for text in texts[:MOST_JUDGED]:
        one = Judging(chain, counts, context)
        one.take([(0, text)])
        told[text] = "".join([part for _, part in await one.judged(is_end=True)])
        if one.blocked is not None:
            return {}, one.blocked
    told |= dict.fromkeys(texts[MOST_JUDGED:], WITHHELD)
    return told, None


async def judged_parts(
    chain: Chain, counts: FilterCounts, one: ShownText, context: FilterContext
) -> tuple[Sequence[Part], BlockMatch | None, bool]:
    """Parts of one text after rules and judges, what blocked it, and whether a judge changed it."""
    one.count(counts)
    if one.blocked is not None or not chain.judges:
        return one.parts, one.blocked, False
    judging = Judging(chain, counts, context)
    judging.take(one.parts)
    return await judging.judged(is_end=True), judging.blocked, judging.is_changed
