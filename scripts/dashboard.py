"""`./dev run python -m scripts.dashboard`: what of the dashboard is made, not written.

`--vendor` builds the NATS client for browsers anew from the npm packages that `scripts/dashboard_vendor` pins with
hashes (needs node and npm), and writes it with its licences and a manifest into `sidecar/dashboard/vendor`.
`--screenshot` takes the pictures in docs/img (needs Chromium). Without either: does the vendored file match?
"""

import argparse
import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "scripts/dashboard_vendor"
VENDOR = ROOT / "sidecar/dashboard/vendor"
BUNDLE = VENDOR / "nats.js"
LICENSES = VENDOR / "LICENSES.txt"
MANIFEST = VENDOR / "manifest.json"
_BUILDERS = ("esbuild", "@esbuild/")
_REMEDY = "./dev run python -m scripts.dashboard --vendor makes it anew"


def differences() -> list[str]:
    """What does not match the manifest: vendored files that were touched, versions that are not those pinned."""
    manifest = json.loads(MANIFEST.read_text("utf-8"))
    found = [
        f"{path.name} is not what its manifest says; {_REMEDY}"
        for path in (BUNDLE, LICENSES)
        if manifest["files"].get(path.name) != _sha256(path)
    ]
    if manifest["packages"] != _pinned():
        found.append(f"the manifest's packages are not those of package-lock.json; {_REMEDY}")
    return found


def build_vendor() -> None:
    """Raises CalledProcessError where npm or esbuild fails, FileNotFoundError where there is no npm."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name in ("package.json", "package-lock.json", "entry.js"):
            shutil.copy(SOURCE / name, work / name)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=work, check=True)
        VENDOR.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *("node", "node_modules/esbuild/bin/esbuild", "entry.js", "--bundle", "--format=esm"),
                *("--minify", "--target=es2022", "--charset=utf8", "--legal-comments=inline"),
                f"--banner:js={_banner()}",
                f"--outfile={BUNDLE}",
            ],
            cwd=work,
            check=True,
        )
        LICENSES.write_text(_licenses(work), "utf-8")
    manifest = {
        "made_by": "python -m scripts.dashboard --vendor",
        "packages": _pinned(),
        "files": {path.name: _sha256(path) for path in (BUNDLE, LICENSES)},
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _pinned() -> dict[str, Any]:
    """Version, licence and hash of every package that goes into the bundle, and of the bundler."""
    lock = json.loads((SOURCE / "package-lock.json").read_text("utf-8"))
    named = {path.removeprefix("node_modules/"): entry for path, entry in lock["packages"].items() if path}
    return {
        name: {key: entry[key] for key in ("version", "license", "integrity") if key in entry}
        for name, entry in sorted(named.items())
        if name == "esbuild" or not name.startswith(_BUILDERS)
    }


def _bundled() -> list[str]:
    return [name for name in _pinned() if not name.startswith(_BUILDERS)]


def _banner() -> str:
    names = ", ".join(f"{name} {_pinned()[name]['version']}" for name in _bundled())
    return f"/* Bundled by esbuild, not written here: {names}. Licences: LICENSES.txt */"


def _licenses(work: Path) -> str:
    parts = []
    for name in _bundled():
        text = (work / "node_modules" / name / "LICENSE").read_text("utf-8").strip("\n")
        parts.append(f"{name} {_pinned()[name]['version']} ({_pinned()[name]['license']})\n\n{text}\n")
    return ("\n" + "=" * 79 + "\n\n").join(parts)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vendor", action="store_true")
    parser.add_argument("--screenshot", action="store_true")
    options = parser.parse_args(arguments)
    if options.screenshot:
        from scripts.dashboard_pictures import take

        for path in asyncio.run(take(ROOT / "docs/img")):
            print(f"{path.relative_to(ROOT)}, {path.stat().st_size:,} bytes")
    if options.vendor:
        build_vendor()
    found = differences()
    print("\n".join(found) or "the vendored files match their manifest")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
