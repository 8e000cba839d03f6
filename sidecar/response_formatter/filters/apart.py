"""Filters in worker processes: what is sent there, made ready there, and told back.

The rest of the room is pure, and the same in every process; here are the functions that run in another one, and
what decides that they do.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from sidecar.response_formatter.filters.making import rule_of, sanitiser_of
from sidecar.response_formatter.filters.rewriting import Beside, Rewriter, RewrittenBeside
from sidecar.response_formatter.filters.scanner import BlockMatch, RuleSource
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, Part, shown_whole
from sidecar.response_formatter.filters.values import Kept, ScreenedValues, ValueScreen, findings_of

# What is longer is filtered apart. In text made for it a character may take some microseconds.
MOST_INLINE_CHARS = 4_096
# JSON of values: each text and number in them is filtered for itself.
MOST_INLINE_BYTES = 1_024
# Of text that no rule looks at, or that is all ASCII for the sanitiser.
MOST_SANITISED_CHARS = 16_384


class ChainSource(msgspec.Struct, frozen=True, array_like=True):
    """What a chain's rules and sanitiser are made of; judges ask others, and stay where they are."""

    sanitise: dict[str, Any]
    rules: tuple[RuleSource, ...]


class ShownText(msgspec.Struct, array_like=True):
    """One text as it may be shown, or what blocked it; and what was found in it."""

    parts: list[Part]
    blocked: BlockMatch | None
    found: list[tuple[str, str, dict[str, int]]]
    hidden: dict[str, int]
    is_cut: bool

    def count(self, counts: FilterCounts) -> None:
        """Add what was found to `counts`."""
        for name, action, kinds in self.found:
            counts.add(name, action, kinds)
        for kind, count in self.hidden.items():
            counts.hidden[kind] = counts.hidden.get(kind, 0) + count
        counts.is_cut = counts.is_cut or self.is_cut


def with_source(chain: Chain) -> Chain:
    """The chain with what a worker process needs to make it. One with a rule that is made once has none."""
    rules = tuple(rule.source for rule in chain.rules if rule.source is not None)
    if len(rules) < len(chain.rules):
        return chain._replace(source=None)
    # The same bytes for the same chain, so that it is made ready once.
    source = ChainSource(chain.sanitise.model_dump(), rules)
    return chain._replace(source=msgspec.msgpack.encode(source, order="deterministic"))


def is_done_at_once(chain: Chain, texts: Sequence[str]) -> bool:
    """Whether texts are short enough, or plain enough, to be filtered where they are."""
    size = sum(map(len, texts))
    if size <= MOST_INLINE_CHARS or chain.source is None:
        return True
    return not chain.rules and (size <= MOST_SANITISED_CHARS or all(text.isascii() for text in texts))


@lru_cache(maxsize=16)
def _chain(source: bytes) -> Chain:
    wanted = msgspec.msgpack.decode(source, type=ChainSource)
    rules = (rule_of(rule) for rule in wanted.rules)
    return Chain(sanitiser_of(wanted.sanitise), tuple(rule for rule in rules if rule is not None))


def show_texts(source: bytes, given: list[list[tuple[int, bytes]]]) -> list[ShownText]:
    """For a worker process: texts, each in its parts, in UTF-8 that may hold half surrogate pairs."""
    chain, shown = _chain(source), []
    for parts in given:
        shown.append(show(chain, [(index, data.decode("utf-8", "surrogatepass")) for index, data in parts]))
        if shown[-1].blocked is not None:
            break
    return shown


def show(chain: Chain, parts: Sequence[Part]) -> ShownText:
    counts = FilterCounts()
    shown, blocked = shown_whole(chain, counts, parts)
    return ShownText(shown, blocked, counts.found_so_far(), counts.hidden, counts.is_cut)


def rewrite(source: bytes, tools: bytes, beside: Beside, known: list[str]) -> RewrittenBeside:
    """For a worker process: what stands beside a text."""
    return rewritten(_chain(source), _chain(tools), beside, frozenset(known))


def rewritten(chain: Chain, tools: Chain, beside: Beside, known: frozenset[str]) -> RewrittenBeside:
    said, mirrored, of_tools = ValueScreen(chain), ValueScreen(chain), ValueScreen(tools)
    # What tools took is nobody's matter but of filters that say so, not even the sanitiser's.
    rewriter = Rewriter(said, of_tools if tools.rules else Kept(), mirrors=mirrored, known=known)
    shown = rewriter.rewritten(beside)
    return RewrittenBeside(shown, *(findings_of(screen) for screen in (said, mirrored, of_tools)))


def screen_values(source: bytes, values: list[Any], paths: list[str]) -> ScreenedValues:
    """For a worker process: values, each with its place."""
    return screened(_chain(source), values, paths)


def screened(chain: Chain, values: Sequence[Any], paths: Sequence[str]) -> ScreenedValues:
    screen = ValueScreen(chain)
    shown = [screen.value(value, path=path) for value, path in zip(values, paths, strict=True)]
    return ScreenedValues(shown, findings_of(screen))
