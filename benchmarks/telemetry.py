"""What telemetry at its default settings costs a job in CPU: counting, trace headers, its part of scrapes.

    python -m benchmarks.telemetry [--quick]

Counted against the least that a job can cost: the whole way of a job in this process, on the bus in memory, with a
scripted model. A job on a real bus and with real calls costs several times that. Both are measured in turns.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.measures import Bar, Figure
from benchmarks.report import table
from sidecar.models.codec import encode
from sidecar.models.result import Attempt, Output, Result, Timings, Usage
from sidecar.models.trace import TRACE, within_trace
from sidecar.replica import Replica
from sidecar.telemetry.counters import Counters
from sidecar.telemetry.metrics import Scrape, render
from sidecar.telemetry.tracing import Subject, Tracer
from tests.support.replica import MODEL, PLENTY, bench

JOBS = 400
LOOPS = 20_000
REPEATS = 5
EVENTS = 4
JOBS_A_SECOND = 100
SCRAPE_EVERY_S = 15
RESULT = Result(
    state="succeeded",
    model=MODEL,
    output=Output(text="x" * 200),
    usage=Usage(input_tokens=20, output_tokens=50),
    cost_usd=0.001,
    attempts=(Attempt(model_id=MODEL, region="us-east-1", outcome="ok", elapsed_ms=900),),
    timings=Timings(queued_ms=10, first_token_ms=300, total_ms=1000),
)


async def job_us(jobs: int) -> tuple[float, float]:
    """Microseconds of CPU of a job on a server in memory; and what a second's statistics and scrapes take."""
    async with bench() as b:
        replica = await b.replica("one", models=PLENTY)
        await b.clock.advance(2)
        began = time.process_time()
        for _ in range(jobs):
            await b.submit()
        await b.until(lambda: b.requests() == 0)
        spent_us = (time.process_time() - began) / jobs * 1e6
        return spent_us, _every_second_us(replica)


def _every_second_us(replica: Replica) -> float:
    stats_us = _loop(lambda: encode(replica.stats()), 50)
    scrape = Scrape(replica.stats(), replica.tally, 0.0, False, True)
    return stats_us + _loop(lambda: render(scrape), 20) / SCRAPE_EVERY_S


def per_job_us(loops: int) -> float:
    """What each job pays for being counted and for its trace."""
    tally, tracer = Counters(), Tracer()
    headers = {"Llm-Job-Id": "job1", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}

    address = "llm.v1.request.acme.standard"
    subject = Subject("acme", "job1", "standard", headers, address, address, 1.0)

    def one() -> None:
        with within_trace(headers):
            for _ in range(EVENTS):
                TRACE.get()
        tally.ended("acme", RESULT, job_class="standard")
        tracer.ended(RESULT, subject)

    return _loop(one, loops)


def _loop(work: Callable[[], object], loops: int) -> float:
    began = time.process_time()
    for _ in range(loops):
        work()
    return (time.process_time() - began) / loops * 1e6


def measure(scale: float) -> list[Figure]:
    jobs, costs, shares = [], [], []
    for _ in range(REPEATS):
        job, every_second = asyncio.run(job_us(round(JOBS * scale)))
        cost = per_job_us(round(LOOPS * scale)) + every_second / JOBS_A_SECOND
        jobs.append(job)
        costs.append(cost)
        shares.append(cost / job)
    note = f"statistics and scrapes shared by {JOBS_A_SECOND} jobs a second"
    return [
        Figure(name="CPU of telemetry per job", unit="us", group="telemetry", samples=tuple(costs), note=note),
        Figure(
            name="as a share of a job on the bus in memory",
            unit="",
            group="telemetry",
            bar=Bar(value=0.05),
            samples=tuple(shares),
            anchors=(("the job, us", statistics.median(jobs)),),
        ),
    ]


def main(arguments: list[str]) -> int:
    """Exit code 0; the figures are for reading."""
    parser = argparse.ArgumentParser(prog="./dev bench telemetry", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the loops")
    options = parser.parse_args(arguments)
    print(table(measure(0.25 if options.quick else 1.0)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
