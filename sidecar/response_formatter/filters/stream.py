"""What lets an answer's text through: the sanitiser, what finds stretches, and filters that judge whole texts.

One channel for the text, one for the reasoning. A channel gives the same text whatever the pieces it comes in; a
piece keeps the index of the content block where it stood.
"""

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Literal, NamedTuple

from sidecar.config.filters import SanitiseOptions
from sidecar.errors import SidecarError
from sidecar.models.call import ModelDelta
from sidecar.models.filtering import Filter, FilterContext, Filtered
from sidecar.models.result import FilterReport
from sidecar.response_formatter.filters.sanitise import Sanitiser, is_clean
from sidecar.response_formatter.filters.scanner import Action, BlockMatch, FilterRule, Piece, Scanner
from sidecar.runtime.redaction import redact

Part = tuple[int, str]
Counts = MutableMapping[str, int]


class Judge(NamedTuple):
    """A filter that is asked, with what the configuration says of it."""

    name: str
    action: Action
    filter: Filter
    segment_chars: int | None


class Chain(NamedTuple):
    """What a job's answer goes through, in order. `source` is what a worker process makes it of, judges apart."""

    sanitise: SanitiseOptions
    rules: tuple[FilterRule, ...] = ()
    judges: tuple[Judge, ...] = ()
    source: bytes | None = None

    @property
    def is_plain(self) -> bool:
        return not self.rules and not self.judges


class FilterCounts:
    """What was found in one answer, by filter and action."""

    def __init__(self, *, on: Literal["output", "input"] = "output") -> None:
        self._on = on
        self._counts: dict[tuple[str, str], dict[str, int]] = {}
        self.hidden: dict[str, int] = {}
        self.is_cut = False

    def found(self, rule: FilterRule, kind: str) -> None:
        self.add(rule.name, rule.action, {kind: 1})

    def add(self, name: str, action: str, kinds: MutableMapping[str, int]) -> None:
        counts = self._counts.setdefault((name, action), {})
        for kind, count in kinds.items():
            counts[kind] = counts.get(kind, 0) + count

    def take(self, other: "FilterCounts") -> None:
        """Take over what another one counted, which counts nothing any more."""
        for name, action, kinds in other.found_so_far():
            self.add(name, action, kinds)
        for kind, count in other.hidden.items():
            self.hidden[kind] = self.hidden.get(kind, 0) + count
        other._counts, other.hidden = {}, {}

    def found_so_far(self) -> list[tuple[str, str, dict[str, int]]]:
        """What was counted, by filter and action, without what the sanitiser hid."""
        if not self._counts:
            return []
        return [(name, action, dict(kinds)) for (name, action), kinds in self._counts.items()]

    def reports(self, options: SanitiseOptions) -> tuple[FilterReport, ...]:
        if not self.hidden and not self._counts:
            return ()
        treatments = {"control": options.controls, "bidi": options.bidi, "invisible": options.invisible}
        for kind, count in self.hidden.items():
            action = "mark" if treatments.get(kind, "mark") == "mark" else "remove"
            self.add("sanitise", action, {kind: count})
        self.hidden = {}
        return tuple(
            FilterReport(name=name, action=action, count=sum(kinds.values()), kinds=dict(kinds), on=self._on)  # type: ignore[arg-type]
            for (name, action), kinds in self._counts.items()
        )


class OutgoingText:
    """One text on its way out. `blocked` is set when a filter let no more through."""

    def __init__(self, chain: Chain, tally: FilterCounts) -> None:
        self._chain = chain
        self._tally = tally
        self._left = chain.sanitise.max_chars
        self._index = -1
        self._sanitiser = Sanitiser(chain.sanitise, tally.hidden)
        self._scanner = Scanner(chain.rules, tally.found) if chain.rules else None
        self._marks: deque[tuple[int, int]] = deque()
        self._came = 0
        self._unjudged: list[Part] = []
        self._unjudged_size = 0

    @property
    def blocked(self) -> BlockMatch | None:
        return self._scanner.blocked if self._scanner is not None else None

    def feed(self, index: int, text: str) -> Sequence[Part]:
        """What may be shown now, by block."""
        if index == self._index:
            return self._scan(index, self._bounded(self._sanitiser.feed(text)))
        before = self._turn_to(index)
        return (*before, *self._scan(index, self._bounded(self._sanitiser.feed(text))))

    def end(self) -> Sequence[Part]:
        """What was held back."""
        rest = self._scan(self._index, self._bounded(self._sanitiser.end()))
        if self._scanner is None:
            return rest
        return (*rest, *self._parts(self._scanner.feed("", is_end=True)))

    def _turn_to(self, index: int) -> Sequence[Part]:
        rest = self._bounded(self._sanitiser.end())
        parts = self._scan(self._index, rest) if rest else ()
        self._index = index
        self._sanitiser = Sanitiser(self._chain.sanitise, self._tally.hidden)
        self._marks.append((self._came, index))
        return parts

    def _bounded(self, text: str) -> str:
        if len(text) > self._left:
            text = text[: self._left]
            if not self._tally.is_cut:
                self._tally.is_cut = True
                self._tally.add("sanitise", "remove", {"too_long": 1})
        self._left -= len(text)
        return text

    def _scan(self, index: int, text: str) -> Sequence[Part]:
        if self._scanner is None:
            return ((index, text),) if text else ()
        self._came += len(text)
        return self._parts(self._scanner.feed(text)) if text else ()

    def _parts(self, pieces: Sequence[Piece]) -> Sequence[Part]:
        parts: list[Part] = []
        for piece in pieces:
            at, text = piece.at, piece.text
            if piece.is_own:
                parts.append((self._index_at(at), text))
                continue
            while text:
                index, end = self._index_at(at), self._marks[1][0] if len(self._marks) > 1 else self._came
                parts.append((index, text[: end - at]))
                text, at = text[end - at :], end
        return parts

    def _index_at(self, at: int) -> int:
        while len(self._marks) > 1 and self._marks[1][0] <= at:
            self._marks.popleft()
        return self._marks[0][1]


def shown_whole(chain: Chain, counts: FilterCounts, parts: Sequence[Part]) -> tuple[list[Part], BlockMatch | None]:
    """A whole text in its parts, as it may be shown before any judge, and what blocked it."""
    text = "".join([text for _, text in parts])
    if not chain.rules and len(text) <= chain.sanitise.max_chars and is_clean(text):
        # Most answers: there is nothing in them for the sanitiser, and nobody else looks.
        return list(parts), None
    channel = OutgoingText(chain, counts)
    shown = [part for index, text in parts for part in channel.feed(index, text)]
    shown += channel.end()
    return shown, channel.blocked


class Judging:
    """Parts gathered into segments, each judged by every judge in turn. The same segments whatever the pieces."""

    def __init__(self, chain: Chain, tally: FilterCounts, context: FilterContext) -> None:
        self._judges = chain.judges
        self._tally = tally
        self._context = context
        sizes = [judge.segment_chars for judge in chain.judges]
        self._segment = None if None in sizes else min((size for size in sizes if size), default=None)
        self._parts: deque[Part] = deque()
        self._size = 0
        self.blocked: BlockMatch | None = None
        self.is_changed = False
        self.found = False
        """Whether any judge had anything to say."""

    def take(self, parts: Sequence[Part]) -> None:
        self._parts.extend(part for part in parts if part[1])
        self._size += sum(len(text) for _, text in parts)

    @property
    def is_due(self) -> bool:
        return self._segment is not None and self._size >= self._segment

    async def judged(self, *, is_end: bool = False) -> list[Part]:
        """What may be shown now. Raises SidecarError where a filter could not judge."""
        shown: list[Part] = []
        while self.blocked is None and (self.is_due or (is_end and self._parts)):
            shown.extend(await self._judge(self._next()))
        return [] if self.blocked is not None else shown

    async def _judge(self, parts: list[Part]) -> list[Part]:
        text = "".join(text for _, text in parts)
        for judge in self._judges:
            answer = await _asked(judge, text, self._context)
            if not answer.kinds and answer.text == text:
                continue
            kinds = dict(answer.kinds) or {"changed": 1}
            self.found = True
            self._tally.add(judge.name, judge.action, kinds)
            if judge.action == "block":
                self.blocked = BlockMatch(judge.name, next(iter(kinds)))
                return []
            if judge.action == "redact":
                text, parts = answer.text, [(parts[0][0], answer.text)]
                self.is_changed = True
        return parts

    def _next(self) -> list[Part]:
        """The next segment: up to the last white space within its size. No more is looked at than is taken."""
        parts, size = self._parts, self._size
        if self._segment is not None and self._size >= self._segment:
            text = "".join(self._first(self._segment))
            size = max(text.rfind(" "), text.rfind("\n")) + 1 or self._segment
        taken: list[Part] = []
        self._size -= size
        while size and parts:
            index, piece = parts.popleft()
            if len(piece) > size:
                parts.appendleft((index, piece[size:]))
                piece = piece[:size]
            size -= len(piece)
            taken.append((index, piece))
        return taken

    def _first(self, size: int) -> Iterator[str]:
        """The first `size` characters, in pieces."""
        for _, piece in self._parts:
            yield piece[:size]
            size -= len(piece)
            if size <= 0:
                return


async def _asked(judge: Judge, text: str, context: FilterContext) -> Filtered:
    try:
        return await judge.filter.apply(text, context)
    except SidecarError:
        raise
    except Exception as e:
        raise SidecarError(f"filter {judge.name!r} failed: {type(e).__name__}: {redact(str(e)).text}") from e


class StreamFilter:
    """Stands between the model's deltas and the client, for one job.

    `take` gives what may leave now; where `has_judges`, call `settle` after each delta as well. `finish` at an
    answer's end, `reset` before the next one. Trouble of a judge is kept in `trouble`, and nothing leaves then.
    """

    def __init__(self, chain: Chain, context: Callable[[str], FilterContext]) -> None:
        self._chain = chain
        self._context = context
        self.has_judges = bool(chain.judges)
        self.reset()

    def reset(self) -> None:
        """Forget what came: another answer begins."""
        self.tally = FilterCounts()
        self.trouble: SidecarError | None = None
        self._text = OutgoingText(self._chain, self.tally)
        self._reasoning = OutgoingText(self._chain, self.tally)
        self._judging = (
            {name: Judging(self._chain, self.tally, self._context(name)) for name in ("text", "reasoning")}
            if self.has_judges
            else {}
        )

    @property
    def is_shut(self) -> bool:
        """Whether nothing may leave any more."""
        return (
            self._text.blocked is not None
            or self._reasoning.blocked is not None
            or self.trouble is not None
            or any(judging.blocked is not None for judging in self._judging.values())
        )

    def take(self, delta: ModelDelta) -> Sequence[ModelDelta]:
        """What of the answer may leave, now that this has come."""
        if delta.text is not None:
            parts = self._text.feed(delta.index, delta.text)
            if len(parts) == 1 and parts[0][1] is delta.text and not self.has_judges:
                return () if self.is_shut else (delta,)
            return self._out("text", parts)
        if delta.reasoning is not None:
            return self._out("reasoning", self._reasoning.feed(delta.index, delta.reasoning))
        return (delta,)

    async def settle(self) -> Sequence[ModelDelta]:
        """What judges let through of what is waiting for them."""
        return [delta for name in self._judging for delta in await self._judged(name, is_end=False)]

    async def finish(self) -> Sequence[ModelDelta]:
        """What was held back, at the answer's end."""
        deltas = [*self._out("reasoning", self._reasoning.end()), *self._out("text", self._text.end())]
        for name in self._judging:
            deltas += await self._judged(name, is_end=True)
        return deltas

    async def _judged(self, name: str, *, is_end: bool) -> Sequence[ModelDelta]:
        if self.is_shut:
            return ()
        try:
            parts = await self._judging[name].judged(is_end=is_end)
        except SidecarError as e:
            self.trouble = e
            return ()
        return () if self.is_shut else _deltas(name, parts)

    def _out(self, name: str, parts: Sequence[Part]) -> Sequence[ModelDelta]:
        if not parts or self.is_shut:
            return ()
        if self.has_judges:
            self._judging[name].take(parts)
            return ()
        return _deltas(name, parts)


def _deltas(name: str, parts: Sequence[Part]) -> Sequence[ModelDelta]:
    if name == "text":
        return [ModelDelta(index=index, text=text) for index, text in parts]
    return [ModelDelta(index=index, reasoning=text) for index, text in parts]
