"""How fast the scheduler decides, and how much memory its windows take."""

import subprocess
import sys
import time
from pathlib import Path

from sidecar.models.profile import Limits
from sidecar.ports import Lane
from sidecar.request_handler.schedule import Scheduler
from sidecar.request_handler.tickets import Ticket

POOLS = ("model@us-east-1",)
CLASSES = {"interactive": 100.0, "standard": 20.0, "batch": 1.0}
WINDOW = 16


def filled(lanes: int) -> Scheduler:
    """A scheduler with a full window in each lane, and quota and slots for all."""
    scheduler = Scheduler(
        classes=CLASSES, slots=10**9, limits=lambda pool: Limits(tokens_per_minute=10**12), window=WINDOW
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


def decisions(lanes: int, *, rounds: int, pairs: bool = False) -> float:
    """Grants a second of CPU time, the best of some rounds; with `pairs`, grant and settlement together."""
    best = 0.0
    for _ in range(rounds):
        scheduler = filled(lanes)
        wanted = min(lanes * WINDOW, 50_000)
        started = time.process_time()
        granted = [scheduler.grant(now=n * 1e-4) for n in range(wanted)]
        if not pairs:
            best = max(best, wanted / (time.process_time() - started))
        for grant in granted:
            assert grant is not None
            scheduler.settle(grant, input_tokens=500, output_tokens=250, seconds=2.0, now=wanted * 1e-4)
        if pairs:
            best = max(best, wanted / (time.process_time() - started))
    return best


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def memory_bytes(lanes: int) -> int:
    """Resident memory that full windows of so many lanes add to a fresh process."""
    code = (
        "from benchmarks.fairness_speed import filled, resident_bytes\n"
        "filled(1); before = resident_bytes()\n"
        f"kept = filled({lanes}); print(resident_bytes() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)
