"""Descriptions out of a docstring: the tool's own, and those of its arguments. Pure."""

import inspect
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Description:
    """`text` is empty where the docstring says nothing; `arguments` maps names to what is said of them."""

    text: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


def parse(docstring: str | None) -> Description:
    """What a docstring says to the model, in Google's, NumPy's, reStructuredText's or Epydoc's style.

    Sections about returns, errors and examples are left out. A docstring that describes no argument in any of the
    styles is prose, and stays as it is.
    """
    import docstring_parser

    clean = inspect.cleandoc(docstring or "").strip()
    found = max(_readings(docstring_parser, clean), key=lambda reading: len(reading.params), default=None)
    if found is None or not (found.params or found.returns or found.raises or found.examples):
        return Description(clean)
    arguments: dict[str, str] = {}
    for param in found.params:
        # NumPy's style describes several at once.
        for name in param.arg_name.split(","):
            arguments[name.strip().lstrip("*")] = " ".join((param.description or "").split())
    text = "\n\n".join(part for part in (found.short_description, found.long_description) if part)
    return Description(text.strip(), arguments)


def _readings(parser: Any, text: str) -> list[Any]:
    """The docstring as each style reads it; a style that cannot is left out."""
    readings = []
    for style in ("GOOGLE", "NUMPYDOC", "REST", "EPYDOC"):
        try:
            readings.append(parser.parse(text, style=parser.DocstringStyle[style]))
        except (parser.ParseError, IndexError, ValueError):
            # The library raises the latter two at fields without a name, such as `: :`.
            continue
    return readings
