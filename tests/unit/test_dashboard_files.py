"""The folder of the dashboard: the vendored client as its manifest says, no way in for markup, no way out."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from scripts.dashboard import BUNDLE, LICENSES, differences
from sidecar.adapters.http.folder import HEADERS
from sidecar.cli.main import main

FOLDER = Path(str(files("sidecar") / "dashboard"))
OWN = sorted([*FOLDER.glob("js/*.js"), FOLDER / "index.html", FOLDER / "style.css", FOLDER / "icon.svg"])


def test_the_vendored_client_is_what_its_manifest_says() -> None:
    assert differences() == []


@pytest.mark.parametrize("path", [BUNDLE, LICENSES], ids=lambda path: path.name)
def test_a_touched_vendored_file_is_found(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setattr(f"scripts.dashboard.{'BUNDLE' if path == BUNDLE else 'LICENSES'}", copy)
    assert [path.name in difference for difference in differences()] == [True]


def test_the_licences_of_all_that_is_bundled_come_with_it() -> None:
    manifest = json.loads((FOLDER / "vendor/manifest.json").read_text("utf-8"))
    text = LICENSES.read_text("utf-8")
    for name, package in manifest["packages"].items():
        if name != "esbuild":
            assert f"{name} {package['version']} ({package['license']})" in text
            assert package["integrity"].startswith("sha512-")
    assert "Apache License" in text


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_of_ours_parses_markup_or_runs_text(path: Path) -> None:
    text = path.read_text("utf-8")
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|srcdoc|javascript:"
    )
    assert re.search(forbidden, text) is None


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_nothing_of_ours_names_another_host(path: Path) -> None:
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert set(re.findall(r"(?:https?|wss?)://[a-z0-9.]+", text)) <= {"ws://127.0.0.1", "ws://host", "wss://host"}
    assert "@import" not in text
    assert "url(" not in text


def test_scripts_and_styles_stand_in_files() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert re.search(r"<script(?! type=\"module\" src=\"js/app\.js\"></script>)", page) is None
    assert "<style" not in page
    assert " style=" not in page
    assert re.search(r"\son[a-z]+=", page) is None


def test_the_page_has_the_policy_of_its_server_wherever_it_lies() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    (meta,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    (header,) = [h.partition(": ")[2] for h in HEADERS if h.startswith("Content-Security-Policy")]
    # What a page cannot say of itself.
    only_header = {"frame-ancestors 'none'"}
    assert set(header.split("; ")) - only_header == set(meta.split("; "))
    assert "default-src 'none'" in meta
    assert "unsafe" not in meta


def test_every_import_is_in_the_folder() -> None:
    for path in FOLDER.glob("js/*.js"):
        for name in re.findall(r'from "([^"]+)"', path.read_text("utf-8")):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--websocket", "http://127.0.0.1"), "ws://"),
        (("--websocket", "ws://user:secret@127.0.0.1:8080"), "ws://"),
        (("--tenant", "a.b"), "1 to 64"),
        (("--creds", "/nowhere/x.creds"), "does not exist"),
    ],
)
def test_options_that_cannot_be_are_refused(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", *arguments]) == 2
    assert said in capsys.readouterr().err
