"""Nova 1 writes what it thinks into the text, between `<thinking>` tags at its start; here the two part."""

from typing import NamedTuple

OPEN, CLOSE = "<thinking>", "</thinking>"


class ThinkingPiece(NamedTuple):
    text: str
    is_reasoning: bool


class ThinkingSplitter:
    """Splits a text that comes in pieces. Holds back only what may still become a tag.

    Only a tag at the beginning counts, so that an answer about such tags stays as it is. Both parts lose the
    white space around the tags.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"
        self._trim_left = True

    def feed(self, text: str) -> list[ThinkingPiece]:
        if self._state == "answer" and not self._trim_left:
            return [ThinkingPiece(text, False)] if text else []
        self._held += text
        pieces: list[ThinkingPiece] = []
        if self._state == "start":
            self._start()
        if self._state == "thinking":
            self._thinking(pieces)
        if self._state == "answer":
            self._answer(pieces)
        return pieces

    def flush(self) -> list[ThinkingPiece]:
        """The rest, at the end of the text: an unclosed tag leaves reasoning only."""
        rest, self._held = self._held, ""
        if not rest.strip() and self._trim_left:
            return []
        return [ThinkingPiece(rest, self._state == "thinking")] if rest else []

    def _start(self) -> None:
        lead = self._held.lstrip()
        if lead.startswith(OPEN):
            self._held = lead[len(OPEN) :]
            self._state = "thinking"
        elif not OPEN.startswith(lead):
            self._state = "answer"
            self._trim_left = False

    def _thinking(self, pieces: list[ThinkingPiece]) -> None:
        if self._trim_left:
            self._held = self._held.lstrip()
            self._trim_left = not self._held
        end = self._held.find(CLOSE)
        if end >= 0:
            thought = self._held[:end].rstrip()
            self._held = self._held[end + len(CLOSE) :]
            self._state, self._trim_left = "answer", True
        else:
            keep = _tail_to_hold(self._held)
            thought = self._held[: len(self._held) - keep]
            self._held = self._held[len(self._held) - keep :]
        if thought:
            pieces.append(ThinkingPiece(thought, True))

    def _answer(self, pieces: list[ThinkingPiece]) -> None:
        text, self._held = self._held, ""
        if self._trim_left:
            text = text.lstrip()
        if text:
            self._trim_left = False
            pieces.append(ThinkingPiece(text, False))


def _tail_to_hold(text: str) -> int:
    """How many characters at the end may yet begin the closing tag, the white space before them included."""
    for length in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-length:]):
            return length + _trailing_space(text[:-length])
    return _trailing_space(text)


def _trailing_space(text: str) -> int:
    return len(text) - len(text.rstrip())


def split_thinking(text: str) -> list[ThinkingPiece]:
    """A whole text in its two parts, reasoning first."""
    splitter = ThinkingSplitter()
    joined: list[ThinkingPiece] = []
    for piece in splitter.feed(text) + splitter.flush():
        if joined and joined[-1].is_reasoning == piece.is_reasoning:
            joined[-1] = ThinkingPiece(joined[-1].text + piece.text, piece.is_reasoning)
        else:
            joined.append(piece)
    return joined
