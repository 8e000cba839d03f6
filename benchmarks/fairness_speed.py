"""How fast the scheduler decides, and how much memory its windows take."""

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from sidecar.models.profile import QuotaLimits
from sidecar.ports.bus import Lane
from sidecar.scheduler.schedule import Scheduler
from sidecar.scheduler.tickets import Ticket

POOLS = ("model@us-east-1",)
CLASSES = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
WINDOW = 16
IN_FLIGHT = 500


def filled(lanes: int) -> Scheduler:
    """A scheduler with a full window in each lane, and quota and slots for all."""
    scheduler = Scheduler(
        classes=CLASSES, slots=10**9, limits=lambda pool: QuotaLimits(tokens_per_minute=10**12), window=WINDOW
    )
    seq = 0
    for n in range(lanes):
        lane = Lane(f"tenant-{n}", "standard")
        for _ in range(WINDOW):
            seq += 1
            scheduler.push(
                Ticket(
                    seq=seq,
                    lane=lane,
                    job_id=f"job-{seq:012d}",
                    size=2_000 + seq,
                    stored_at=1.7e9 + seq,
                    input_tokens=500 + seq % 100,
                    max_tokens=1_000,
                    pools=POOLS,
                ),
                now=0.0,
            )
    return scheduler


class Speed(NamedTuple):
    """Per second of CPU time: grants alone, and grants with their settlements."""

    grants: float
    pairs: float


def decisions(lanes: int, *, rounds: int) -> Speed:
    """The best of some rounds, each through the whole windows with up to 500 calls in flight."""
    one = f"print(*one_round(filled({lanes}), {lanes * WINDOW}))"
    return max(Speed(*map(float, _in_fresh_process(one).split())) for _ in range(rounds))


def one_round(scheduler: Scheduler, wanted: int) -> Speed:
    now = granting = settling = 0.0
    decided = wanted // IN_FLIGHT * IN_FLIGHT
    for _ in range(wanted // IN_FLIGHT):
        started = time.process_time()
        granted = []
        for _ in range(IN_FLIGHT):
            now += 1e-5
            granted.append(scheduler.grant(now=now))
        between = time.process_time()
        for grant in granted:
            assert grant is not None
            now += 1e-5
            scheduler.settle(grant, input_tokens=500, output_tokens=250, seconds=2.0, now=now)
        granting += between - started
        settling += time.process_time() - between
    return Speed(decided / granting, decided / (granting + settling))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def memory_bytes(lanes: int) -> int:
    """Resident memory that full windows of so many lanes add to a fresh process."""
    code = f"filled(1); before = resident_bytes(); kept = filled({lanes}); print(resident_bytes() - before)"
    return int(_in_fresh_process(code))


def _in_fresh_process(code: str) -> str:
    """What a line prints in a process that holds nothing else."""
    code = f"from benchmarks.fairness_speed import *\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
