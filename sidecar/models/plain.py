"""Documents that anybody may have written, as plain values. The only error is `InvalidRequest`.

The standard library's decoders follow nesting by recursion: 5 KB of brackets end them with a RecursionError,
which no caller expects of a document. What lies within their reach but deeper than any document of the product is
refused as well: validators and printers go down the same way later.
"""

import json
import tomllib
from typing import Any, NoReturn

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.models.shown import on_one_line

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec's decoders raise for bytes that they cannot read. Nesting ends in a RecursionError, raised early
enough to go on from. Whoever decodes a stranger's bytes without `codec.decode` catches these three."""

MOST_DEPTH = 64
_TOO_DEEP = f"it is nested too deep: {MOST_DEPTH} levels are read, flatten it"
_QUOTED = 200


def from_json(text: str) -> Any:
    """The value of a JSON text. NaN and infinity, which Python's decoder takes, are no JSON."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as e:
        raise InvalidRequest(_TOO_DEEP) from e
    except ValueError as e:
        raise InvalidRequest(f"it is no JSON: {on_one_line(str(e), _QUOTED)}") from e
    return _bounded(value)


def from_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text."""
    try:
        value = tomllib.loads(text)
    except RecursionError as e:
        raise InvalidRequest(_TOO_DEEP) from e
    except ValueError as e:
        raise InvalidRequest(f"it is no TOML: {on_one_line(str(e), _QUOTED)}") from e
    _bounded(value)
    return value


def is_deeper(value: Any, most: int) -> bool:
    """Whether lists and tables lie more than `most` deep in each other. Goes level by level, without recursion."""
    level = [value]
    for _ in range(most):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return False
    return any(isinstance(item, dict | list | tuple) for item in level)


def _items(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _bounded(value: Any) -> Any:
    if is_deeper(value, MOST_DEPTH):
        raise InvalidRequest(_TOO_DEEP)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
