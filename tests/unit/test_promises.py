"""The page of promises names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
NOT_A_TEST = ("not tried", "–")


def rows() -> list[list[str]]:
    table = PAGE.read_text("utf-8").split("<!-- promises -->\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def files() -> dict[str, str]:
    return dict(re.findall(r"^- (\w+): `([\w/.]+)`$", PAGE.read_text("utf-8"), re.MULTILINE))


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_each_cell_names_a_test_of_the_suite_or_says_that_there_is_none() -> None:
    head, _, *promises = rows()
    known = {name: names_in(file) for name, file in files().items()}
    assert len(promises) >= 16
    for promise in promises:
        assert len(promise) == len(head), promise[0]
        for way, cell in zip(head[1:], promise[1:], strict=True):
            if cell in NOT_A_TEST:
                continue
            name, _, test = cell.partition(":")
            assert test in known.get(name, ()), f"{promise[0]}, {way}: there is no {cell}"


def test_each_promise_is_held_somewhere_and_each_file_is_used() -> None:
    _, _, *promises = rows()
    for promise in promises:
        assert any(cell not in NOT_A_TEST for cell in promise[1:]), promise[0]
    used = {cell.partition(":")[0] for promise in promises for cell in promise[1:] if cell not in NOT_A_TEST}
    assert used == set(files())
