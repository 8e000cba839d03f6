"""A sidecar whose credentials are refused, and whose endpoint goes away: its jobs wait, and none fails."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.adapters.nats.embedded import free_port
from sidecar.emulator import AuthPolicy, Emulator
from tests.support.nats_server import Server
from tests.support.process import SidecarProcess, spawn_sidecar, wait_until
from tests.support.stranger import Stranger, asks, stranger

JOBS = 40
TENANTS = 4
TIMEOUT_S = 2
# So long a job would have failed by its own time twice over.
OUTAGE_S = 4.5
AUTH = AuthPolicy(secrets={"AKIDNEW": "secret"})


def write_keys(path: Path, name: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n")


def is_degraded(sidecar: SidecarProcess, words: str) -> Callable[[], bool]:
    def look() -> bool:
        status, page = sidecar.get("/readyz")
        return status == 200 and page["status"] == "degraded" and words in json.dumps(page["reasons"])

    return look


async def submit(clients: list[Stranger], name: str) -> None:
    for n in range(JOBS):
        asked = asks(f"[[tokens=2]] {n}", timeout_s=TIMEOUT_S)
        await clients[n % TENANTS].publish(asked, job=f"{name}{n}")


async def documents(clients: list[Stranger], name: str) -> list[dict[str, Any]]:
    return [
        await clients[n % TENANTS].answer("get", clients[n % TENANTS].tenant, f"{name}{n}") for n in range(JOBS)
    ]


async def until_ended(clients: list[Stranger], name: str) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        while True:
            found = await documents(clients, name)
            if all(state["state"] not in ("queued", "running", "waiting") for state in found):
                return found
            await asyncio.sleep(0.1)


async def test_refused_credentials_and_an_endpoint_that_is_away_fail_no_job(
    own_nats_server: Server, tmp_path: Path
) -> None:
    keys, port = tmp_path / "credentials", free_port()
    write_keys(keys, "AKIDOLD")
    environment = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(keys),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    emulator = Emulator(port=port, auth=AUTH)
    await emulator.start()
    url = f"http://127.0.0.1:{port}"
    sidecar: SidecarProcess
    with spawn_sidecar(own_nats_server.url, url, environment=environment) as sidecar:
        async with (
            stranger(own_nats_server.url, "t0") as a,
            stranger(own_nats_server.url, "t1") as b,
            stranger(own_nats_server.url, "t2") as c,
            stranger(own_nats_server.url, "t3") as d,
        ):
            clients = [a, b, c, d]
            await submit(clients, "keys")
            await asyncio.to_thread(wait_until, is_degraded(sidecar, "does not take"), what="degraded")
            await asyncio.sleep(OUTAGE_S)
            assert {state["state"] for state in await documents(clients, "keys")} == {"queued"}
            write_keys(keys, "AKIDNEW")
            back_at = time.monotonic()
            ended = await until_ended(clients, "keys")
            assert {state["state"] for state in ended} == {"succeeded"}
            assert time.monotonic() - back_at < 20
            await asyncio.to_thread(
                wait_until, lambda: sidecar.get("/readyz")[1]["status"] == "ready", what="well"
            )

            await emulator.stop()
            await submit(clients, "away")
            await asyncio.to_thread(wait_until, is_degraded(sidecar, "cannot be reached"), what="degraded")
            await asyncio.sleep(OUTAGE_S)
            assert {state["state"] for state in await documents(clients, "away")} == {"queued"}
            emulator = Emulator(port=port, auth=AUTH)
            await emulator.start()
            ended = await until_ended(clients, "away")
            assert {state["state"] for state in ended} == {"succeeded"}
            assert len([line for line in sidecar.log.splitlines() if "no calls can be made" in line]) == 2
            assert len([line for line in sidecar.log.splitlines() if "calls can be made again" in line]) == 2
    await emulator.stop()
