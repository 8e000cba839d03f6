"""The last landed release, taken from the repository's history, to stand beside this one in tests of upgrades."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION, COMMIT = "0.1.0", "d8a4624"


def release_root() -> Path:
    """A checkout of the release, made when first asked for. Skips the test where the history does not reach back.

    It runs on this environment's libraries: `PYTHONPATH` puts its package before the installed one.
    """
    made = ROOT / "build" / f"release-{VERSION}-{COMMIT}"
    if made.exists():
        return made
    made.parent.mkdir(exist_ok=True)
    archive = subprocess.run(["git", "archive", COMMIT, "sidecar"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"release {VERSION} is not in this repository's history ({COMMIT}): a shallow clone?")
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        try:
            # Test processes run side by side: whoever comes second finds it made.
            os.rename(folder, made)
        except OSError:
            if not made.exists():
                raise
        else:
            Path(folder).mkdir()
    return made
