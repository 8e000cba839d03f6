"""YAML text of plain values: block style, keys in the order given, strings quoted where YAML could misread."""

import json
import re
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_$/.][A-Za-z0-9_$/.@ -]*[A-Za-z0-9_$/.@-]|[A-Za-z_]")
_MISREAD = re.compile(r"(?i)(true|false|yes|no|on|off|null|y|n|\.inf|\.nan|[.+-]?[0-9_.]+(e[+-]?\d+)?)")


def dump(value: Any) -> str:
    """`value` (dicts, lists, strings, numbers, booleans, None) as a YAML document."""
    return "".join(f"{line}\n" for line in _lines(value, 0))


def _lines(value: Any, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        lines: list[str] = []
        for key, item in value.items():
            head = f"{indent}{_scalar(str(key))}:"
            if isinstance(item, dict | list) and item:
                lines += [head, *_lines(item, depth + 1)]
            else:
                lines.append(f"{head} {_scalar(item)}")
        return lines
    if isinstance(value, list) and value:
        lines = []
        for item in value:
            inner = _lines(item, depth + 1)
            lines += [f"{indent}- {inner[0].strip()}", *inner[1:]]
        return lines
    return [f"{indent}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _MISREAD.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
