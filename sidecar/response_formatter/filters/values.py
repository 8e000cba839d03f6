"""Filters on JSON values: what a text filter would remove must not stand in the value made of the text. Pure."""

from typing import Any

from sidecar.response_formatter.filters.sanitise import sanitised
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, OutgoingText

_MOST_NAME_CHARS = 160


def screened_value(value: Any, chain: Chain) -> Any:
    """The value with each text in it, and each number, as the chain's rules let it be seen.

    A member's name counts as what stands before its value. A number of which something was found becomes a text.
    """
    return _screened(value, "", chain)


def _screened(value: Any, name: str, chain: Chain) -> Any:
    if isinstance(value, str):
        return _text(value, name, chain)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        shown = _text(str(value), name, chain)
        return value if shown == str(value) else shown
    if isinstance(value, dict):
        return {_text(key, "", chain): _screened(item, key, chain) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_screened(item, name, chain) for item in value]
    return value


def _text(value: str, name: str, chain: Chain) -> str:
    if not name:
        return _through(value, chain)
    # No filter looks further back, and one name may stand before very many values.
    before = f"{name[-_MOST_NAME_CHARS:]}: "
    whole = _through(before + value, chain)
    # Where the name itself was touched, the value is judged alone.
    return whole[len(before) :] if whole.startswith(before) else _through(value, chain)


def _through(text: str, chain: Chain) -> str:
    if not chain.rules:
        return sanitised(text, chain.sanitise, {})
    channel = OutgoingText(chain, FilterCounts())
    parts = [*channel.feed(0, text), *channel.end()]
    return "[BLOCKED]" if channel.blocked is not None else "".join(piece for _, piece in parts)
