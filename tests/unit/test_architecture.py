"""What may import what, and what an import costs: rules that keep start-up fast and parts apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sidecar"
DECIDERS = ("scheduler", "coordinator", "job_manager", "response_formatter", "tool_registry")
WIRE = {"msgspec", "typing_extensions"}  # msgspec loads the second where it is installed
FOREIGN = {
    "nats": ("adapters/nats", "client"),
    "boto3": ("adapters/bedrock",),
    "botocore": ("adapters/bedrock",),
    "aiohttp": ("adapters/bedrock", "emulator"),
}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules outside the standard library that a fresh interpreter has after `statement`."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    return {name for name in names if name not in sys.stdlib_module_names and name != "sidecar"}


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""


def files_under(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def test_importing_the_package_loads_nothing_foreign() -> None:
    assert loaded_by("import sidecar") == set()


def test_models_and_ports_need_msgspec_alone() -> None:
    assert loaded_by("import sidecar.models.codec, sidecar.ports.bus") <= WIRE


def test_the_bytes_of_nats_need_msgspec_alone() -> None:
    modules = ("headers", "matching", "parser", "tokens")
    assert loaded_by(f"import {', '.join(f'sidecar.wire.{name}' for name in modules)}") <= WIRE


@pytest.mark.parametrize("part", DECIDERS)
def test_deciders_never_import_each_other(part: str) -> None:
    others = {f"sidecar.{other}" for other in DECIDERS if other != part}
    for file in files_under(part):
        met = {".".join(name.split(".")[:2]) for name in imports_of(file)}
        assert not met & (others | {"sidecar.adapters", "sidecar.pipeline", "sidecar.app", "sidecar.cli"}), file


def test_no_module_lies_loose_but_those_that_tell_the_story() -> None:
    loose = {file.name for file in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "__main__.py", "app.py", "errors.py", "pipeline.py", "replica.py"}


@pytest.mark.parametrize(("package", "more"), [("client", {"sidecar.wire"}), ("emulator", set())])
def test_the_client_and_the_emulator_know_only_models_and_errors(package: str, more: set[str]) -> None:
    allowed = {"sidecar", "sidecar.models", "sidecar.errors", f"sidecar.{package}"} | more
    for file in files_under(package):
        met = {".".join(name.split(".")[:2]) for name in imports_of(file) if name.split(".")[0] == "sidecar"}
        assert met <= allowed, file


@pytest.mark.parametrize("library", FOREIGN)
def test_foreign_libraries_stay_in_their_adapters(library: str) -> None:
    for file in files_under("."):
        place = file.relative_to(PACKAGE).as_posix()
        if not place.startswith(FOREIGN[library]):
            assert library not in {name.split(".")[0] for name in imports_of(file)}, file


def test_errors_import_nothing_of_the_product_and_models_only_errors() -> None:
    assert not [name for name in imports_of(PACKAGE / "errors.py") if name.startswith("sidecar")]
    for file in files_under("models"):
        met = {name for name in imports_of(file) if name.startswith("sidecar")}
        assert all(name.startswith(("sidecar.models", "sidecar.errors")) for name in met), file


def test_the_example_client_of_the_schemas_page_is_python() -> None:
    page = (ROOT / "schemas/README.md").read_text(encoding="utf-8")
    compile(page.split("```python\n", 1)[1].split("```", 1)[0], "schemas/README.md", "exec")
