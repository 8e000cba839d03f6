"""What was spent, over the death of the process that sums it up, on a real server."""

import csv
import io
import subprocess
import sys
import time

import pytest

from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import AccountPool
from tests.support.process import ROOT, clean_environment, spawn_sidecar
from tests.support.stranger import LIMIT_S, Stranger, asks, stranger

pytestmark = pytest.mark.nats


def spend(url: str, *arguments: str, calls: int) -> list[dict[str, str]]:
    """The rows, once they tell of so many calls."""
    command = [sys.executable, "-m", "sidecar", "-s", url, "-t", "acme", "spend", "--csv", *arguments]
    until = time.monotonic() + LIMIT_S
    while True:
        ran = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stderr
        rows = list(csv.DictReader(io.StringIO(ran.stdout)))
        if sum(int(row["calls"]) for row in rows) >= calls:
            return rows
        assert time.monotonic() < until, ran.stdout
        time.sleep(1)


async def costs(client: Stranger, *jobs: str) -> float:
    results = [await client.run(asks("hello"), job=job) for job in jobs]
    return sum(result["cost_usd"] for result in results)


async def test_sums_are_exact_over_kill_and_restart(nats_server: AccountPool, bedrock: EmulatorProcess) -> None:
    url = nats_server.take().url
    async with stranger(url, "acme") as client:
        with spawn_sidecar(url, bedrock.url) as sidecar:
            total = await costs(client, "a", "b", "c")
            # Long before the sums are written.
            sidecar.kill()
        with spawn_sidecar(url, bedrock.url):
            total += await costs(client, "d", "e", "f")
            rows = spend(url, calls=6)
            assert sum(float(row["cost_usd"]) for row in rows) == pytest.approx(total, abs=6e-9)
            assert {row["incomplete"] for row in rows} == {"false"}
            everybody = spend(url, "--all", "--by", "tenant,class", calls=6)
            assert [(row["tenant"], row["class"], row["calls"]) for row in everybody] == [
                ("acme", "standard", "6")
            ]
