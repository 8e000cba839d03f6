"""The policy of a running process: changed by its file, by SIGHUP and on the bus, without a restart."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.adapters.nats.policies import NatsPolicyStore
from sidecar.adapters.nats.spend import NatsSpendLedger
from sidecar.models.subjects import Subjects
from tests.support.emulator import EmulatorProcess
from tests.support.nats_server import Access
from tests.support.process import MODEL, SidecarProcess, wait_until
from tests.support.queueing import Queue, queue

pytestmark = pytest.mark.nats

PROMPT = "[[tokens=20]] hi"


def policy(text: str) -> str:
    return f'[models."{MODEL}"]\ntokens_per_minute = 10_000_000\nfallback = []\n{text}'


def degraded(sidecar: SidecarProcess) -> Any:
    return sidecar.get("/info")[1]["degraded"].get("config")


async def states(jobs: Queue, count: int) -> list[str]:
    found = await jobs.first(count)
    return [job.state for job in found[-1:]]


async def test_file_signal_and_bus(nats_access: Access, bedrock: EmulatorProcess, tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(policy("[tenants.acme]\nweight = 1\n"))
    settings = {"SIDECAR_CONFIG": str(file)}
    async with queue(nats_access) as jobs:
        made = SidecarProcess(nats_access.url, bedrock.url, environment=settings, models={})
        with made as sidecar:
            sidecar.wait_ready()
            await jobs.publish("acme", 1, prompt=PROMPT)
            assert await states(jobs, 1) == ["succeeded"]

            file.write_text(policy("[tenants.acme]\nweight = -1\n"))
            wait_until(lambda: degraded(sidecar) is not None, what="told of the bad file")
            assert "tenants.acme.weight" in degraded(sidecar)

            file.write_text(policy("[tenants.acme]\ndeny = true\n"))
            sidecar.signal(signal.SIGHUP)
            wait_until(lambda: degraded(sidecar) is None, what="mended")
            await jobs.publish("acme", 1, prompt=PROMPT, job_class="batch")
            assert await states(jobs, 2) == ["rejected"]

            store = NatsPolicyStore(jobs.mux)
            await store.save(json.dumps({"tenants": {"acme": {"budget_usd_per_day": 50.0}}}).encode())
            log = "policy applied"
            wait_until(lambda: sidecar.log.count(log) >= 2, what="taken over from the bus")
            await jobs.publish("acme", 1, prompt=PROMPT, job_class="interactive")
            assert await states(jobs, 3) == ["succeeded"]

            ledger = NatsSpendLedger(jobs.mux, Subjects())
            day = int(time.time() // 86_400)
            assert await ledger.total("acme", day) > 0
            sidecar.signal(signal.SIGTERM)
            assert sidecar.wait() == 0


async def test_what_was_spent_binds_the_next_process(nats_access: Access, bedrock: EmulatorProcess) -> None:
    """Each job may cost 0.00033 USD at most and costs about as much, so that three of four fit."""
    tenants = {"acme": {"budget_usd_per_day": 0.0011}}
    prompt = "[[tokens=20]] hi"
    async with queue(nats_access) as jobs:
        for count in (2, 4):
            with SidecarProcess(nats_access.url, bedrock.url, tenants=tenants) as sidecar:
                sidecar.wait_ready()
                job_class = {2: "standard", 4: "batch"}[count]
                await jobs.publish("acme", 2, prompt=prompt, job_class=job_class, max_tokens=20)
                await jobs.first(count)
                sidecar.kill()
    assert [job.state for job in jobs.ran].count("rejected") >= 1
    assert [job.state for job in jobs.ran[:2]] == ["succeeded", "succeeded"]
