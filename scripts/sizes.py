"""What the style bounds: the length of files and functions, and that a public class has its name for itself."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE_LINES_SOFT, FILE_LINES_HARD = 300, 500
FUNCTION_LINES_SOFT, FUNCTION_LINES_HARD = 40, 60


@dataclass
class Findings:
    """Places over a limit, one line of text each."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, lines: int, *, soft: int, hard: int) -> None:
        if lines > hard:
            self.errors.append(f"{what}: {lines} lines, at most {hard} are allowed")
        elif lines > soft:
            self.notes.append(f"{what}: {lines} lines, {soft} are enough for most")


def measure(root: Path, folders: tuple[str, ...]) -> Findings:
    """What is too long in the Python files under `root`'s `folders`."""
    findings = Findings()
    for file in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        name, text = file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")
        findings.add(name, text.count("\n"), soft=FILE_LINES_SOFT, hard=FILE_LINES_HARD)
        for function, line, lines in _functions(text):
            findings.add(f"{name}:{line} {function}", lines, soft=FUNCTION_LINES_SOFT, hard=FUNCTION_LINES_HARD)
    return findings


def _functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of every function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield node.name, node.lineno, lines


def namesakes(root: Path, package: str, *, apart: tuple[str, ...]) -> list[str]:
    """Public classes of `package` that share a name, a line each. `apart`: folders with names of their own."""
    named: dict[str, list[str]] = {}
    for file in sorted((root / package).rglob("*.py")):
        name = file.relative_to(root / package).as_posix()
        if not name.startswith(apart):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    named.setdefault(node.name, []).append(name)
    return [f"{name}: {', '.join(places)}" for name, places in sorted(named.items()) if len(places) > 1]
