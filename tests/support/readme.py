"""Commands in Markdown that are to be run: fenced blocks behind an HTML comment.

    <!-- run -->              each command in turn; all must succeed, and print something
    <!-- run: exit 2 -->      the same, with another exit code for each
    <!-- run: background -->  started, left running while the next blocks run, ended at the end

A block holds commands, one a line, a backslash at the end goes on; what follows `#` at the start of a line is a
comment; `export` lines are left out, since tests set the environment themselves.
"""

import re
from dataclasses import dataclass

_BLOCK = re.compile(
    r"^<!-- run(?:: (?P<how>[^\n]*?))? -->\n+```(?:sh|bash|shell|console)\n(?P<body>.*?)^```", re.M | re.S
)
_EXIT = re.compile(r"exit (\d+)")


@dataclass(frozen=True)
class Block:
    """`line` is where the block begins, counted from 1."""

    line: int
    commands: tuple[str, ...]
    exit_code: int = 0
    is_background: bool = False


def blocks(markdown: str) -> list[Block]:
    """The marked blocks, in order. Raises ValueError for a mark that means nothing or has no block."""
    found = []
    for match in _BLOCK.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        how = match["how"] or ""
        exit_code = _EXIT.fullmatch(how)
        if how and how != "background" and exit_code is None:
            raise ValueError(f"line {line}: no such way to run a block: {how!r}")
        found.append(
            Block(line, commands(match["body"]), int(exit_code[1]) if exit_code else 0, how == "background")
        )
    marks = len(re.findall(r"^<!-- run\b", markdown, re.M))
    if marks != len(found):
        raise ValueError(f"{marks} blocks are marked to be run, but {len(found)} are fenced as sh right behind")
    return found


def commands(body: str) -> tuple[str, ...]:
    """The commands of a block, continued lines joined, prompts (`$ `) and `./dev run ` taken off."""
    lines = body.replace("\\\n", " ").splitlines()
    bare = (line.strip().removeprefix("$ ").removeprefix("./dev run ") for line in lines)
    return tuple(line for line in bare if line and not line.startswith(("#", "export ")))
