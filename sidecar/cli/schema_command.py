"""`sidecar schema`: the protocol for other languages, as it was made from the models for this release."""

import json
from pathlib import Path
from typing import Any

import click

import sidecar
from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options

_PACKAGE = Path(sidecar.__file__).parent
_JSON, _ENDING = "json", ".v1.json"


def _folder() -> Path:
    """Where the files lie: within an installed package, or beside it in a checkout."""
    shipped = _PACKAGE / "schemas"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "schemas"


def _files() -> dict[str, str]:
    """The text of every file by its path from the folder `schemas`; what people wrote is left out."""
    folder = _folder()
    found = [folder / "asyncapi.yaml", *sorted(folder.glob("*/*.json"))]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in found}


def _names() -> list[str]:
    return sorted(file.name.removesuffix(_ENDING) for file in (_folder() / _JSON).glob(f"*{_ENDING}"))


def _schema(name: str) -> Any:
    return json.loads((_folder() / _JSON / f"{name}{_ENDING}").read_text(encoding="utf-8"))


@click.command("schema")
@click.argument("name", required=False)
@click.option("--write", "is_write", is_flag=True, help="Put the files of this release into ROOT/schemas.")
@click.option(
    "--check", "is_check", is_flag=True, help="Exit 1 where the files under ROOT/schemas are not this release's."
)
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), default=Path(), show_default="here")
@printing_options
@click.pass_obj
def command(invocation: Invocation, name: str | None, is_write: bool, is_check: bool, root: Path) -> int:
    """List the schemas, print the one of NAME, or put all files into a folder, or compare those there."""
    if is_write and is_check:
        raise click.UsageError("--write and --check exclude each other")
    if is_check:
        return _checked(invocation, root / "schemas")
    if is_write:
        return _written(invocation, root / "schemas")
    names = _names()
    if name is None:
        for known in names:
            invocation.data(known)
        return exits.OK
    if name not in names:
        raise click.UsageError(f"there is no schema {name!r}: use one of {', '.join(names)}")
    invocation.json(_schema(name))
    return exits.OK


def _differing(folder: Path) -> dict[str, str]:
    """The files of this release that `folder` has not, or has otherwise: text by path."""
    return {path: text for path, text in _files().items() if not _holds(folder / path, text)}


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_bytes() == text.encode()


def _checked(invocation: Invocation, folder: Path) -> int:
    found = _differing(folder)
    for path in found:
        invocation.data(f"schemas/{path} {'differs' if (folder / path).is_file() else 'is missing'}")
    if found:
        invocation.note("these are not the files of this release: `sidecar schema --write` puts them there")
    return exits.FAILED if found else exits.OK


def _written(invocation: Invocation, folder: Path) -> int:
    for path, text in _differing(folder).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
        invocation.data(f"schemas/{path}")
    return exits.OK
