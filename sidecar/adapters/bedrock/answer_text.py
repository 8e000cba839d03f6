"""The text of an answer that a model wrote as JSON into a tool's arguments, or into an object around it.

A model's own white space, escapes and number forms are lost where the service parses the arguments (whole
answers) and kept where it streams them. Here both become one text, the same however it is cut into pieces:
compact JSON as msgspec writes it.
"""

import re

import msgspec

from sidecar.adapters.bedrock.schema import VALUE

_PREFIX = f'{{"{VALUE}":'
_SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\]+')
_BARE = re.compile(r"[^\s\"{}\[\],:]+")
_ESCAPE = re.compile(r"\\(?:[^u]|u[0-9a-fA-F]{4})")
_HIGH = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}\Z")
_LONGEST_ESCAPE = 6


class AnswerText:
    """Takes the arguments as they come, gives the text. What does not begin as an object is left as it is.

    `is_wrapped`: the answer is the property `value` of the object.
    """

    def __init__(self, *, is_wrapped: bool) -> None:
        self._is_wrapped = is_wrapped
        self._state = "start"
        self._held = ""
        self._is_in_string = False
        self._out = ""
        self._has_prefix = False

    def feed(self, piece: str) -> str:
        """The text that this piece adds."""
        self._held += piece
        if self._state == "start":
            begin = self._held.lstrip(_SPACE)
            if not begin:
                return ""
            self._state = "json" if begin[0] == "{" else "as it is"
        if self._state == "as it is":
            out, self._held = self._held, ""
            return out
        return self._given(self._compact(is_last=False))

    def flush(self) -> str:
        """The rest, at the end of the arguments."""
        if self._state != "json":
            out, self._held = self._held, ""
            return out
        rest = self._given(self._compact(is_last=True))
        held, self._out = self._out, ""
        return rest + ("" if self._has_prefix and held == "}" else held)

    def _given(self, text: str) -> str:
        """What of the compact text may leave: without the object around the answer, if there is one."""
        if not self._is_wrapped:
            return text
        self._out += text
        if not self._has_prefix:
            if len(self._out) < len(_PREFIX) and _PREFIX.startswith(self._out):
                return ""
            if not self._out.startswith(_PREFIX):
                self._is_wrapped = False
                text, self._out = self._out, ""
                return text
            self._has_prefix = True
            self._out = self._out[len(_PREFIX) :]
        keep = 1 if self._out.endswith("}") else 0
        text = self._out[: len(self._out) - keep]
        self._out = self._out[len(text) :]
        return text

    def _compact(self, *, is_last: bool) -> str:
        out: list[str] = []
        at, text = 0, self._held
        while at < len(text):
            step = self._string_step if self._is_in_string else self._bare_step
            found = step(text, at, is_last)
            if found is None:
                break
            piece, at = found
            out.append(piece)
        self._held = text[at:]
        return "".join(out)

    def _string_step(self, text: str, at: int, is_last: bool) -> tuple[str, int] | None:
        """The next piece within a string and where it ends; None when more must come first."""
        plain = _PLAIN.match(text, at)
        if plain is not None:
            return plain[0], plain.end()
        if text[at] == '"':
            self._is_in_string = False
            return '"', at + 1
        escape = _ESCAPE.match(text, at)
        if escape is None:
            is_short = len(text) - at < _LONGEST_ESCAPE
            return None if is_short and not is_last else (text[at], at + 1)
        end = escape.end()
        if _HIGH.match(escape[0]):
            low = text[end : end + _LONGEST_ESCAPE]
            if len(low) < _LONGEST_ESCAPE and not is_last and "\\u".startswith(low[:2]):
                return None
            end += _LONGEST_ESCAPE if _LOW.match(low) else 0
        return _canonical(f'"{text[at:end]}"')[1:-1], end

    def _bare_step(self, text: str, at: int, is_last: bool) -> tuple[str, int] | None:
        """The next token outside of strings, nothing for white space."""
        char = text[at]
        if char == '"':
            self._is_in_string = True
            return '"', at + 1
        if char in "{}[],:":
            return char, at + 1
        if char.isspace():
            return "", at + 1
        bare = _BARE.match(text, at)
        end = bare.end() if bare is not None else at + 1
        if end == len(text) and not is_last:
            return None
        return _canonical(text[at:end]), end


def _canonical(token: str) -> str:
    """One JSON scalar as msgspec writes it; what is none stays as it is."""
    try:
        return msgspec.json.encode(msgspec.json.decode(token)).decode()
    except (msgspec.DecodeError, UnicodeError):
        return token


def answer_text(written: str, *, is_wrapped: bool) -> str:
    """The text of whole arguments."""
    text = AnswerText(is_wrapped=is_wrapped)
    return text.feed(written) + text.flush()
