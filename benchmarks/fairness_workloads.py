"""The workloads: each is a way in which schedulers have been unfair."""

from math import inf

from benchmarks.fairness_model import Shape, Source, World
from sidecar.models.profile import QuotaLimits

TOKENS = QuotaLimits(tokens_per_minute=2_000_000, requests_per_minute=20_000)


def skewed(seconds: float) -> World:
    """Ten tenants that are always backlogged; the size of their calls differs by twenty, their weight by three."""
    sizes = ((6_000, 1_500, 4_000), (2_500, 600, 2_000), (900, 300, 4_000), (350, 120, 1_000), (300, 60, 500))
    sources = tuple(
        Source(
            tenant=f"t{i}-w{weight}",
            weight=weight,
            shape=Shape(input_mean=sizes[i % 5][0], output_mean=sizes[i % 5][1], max_tokens=sizes[i % 5][2]),
        )
        for i, weight in enumerate((1, 2, 3, 1, 2, 3, 1, 2, 3, 1))
    )
    return World(name="skewed", sources=sources, limits=TOKENS, seconds=seconds)


def flood(seconds: float, jobs: int) -> World:
    """One tenant has a million jobs queued, another works steadily, and a third comes with twenty."""
    shape = Shape(input_mean=1_500, output_mean=400, max_tokens=1_500)
    return World(
        name="flood",
        sources=(
            Source(tenant="flood", shape=shape, bursts=((0.0, float(jobs)),)),
            Source(tenant="steady", shape=shape, bursts=tuple((float(t), 3.0) for t in range(0, int(seconds)))),
            Source(tenant="newcomer", shape=shape, bursts=((seconds / 2, 20.0),)),
        ),
        limits=TOKENS,
        seconds=seconds,
    )


def long_outputs(seconds: float) -> World:
    """Answers far longer than predicted at first, at a burndown of five, with many calls in flight."""
    return World(
        name="long outputs",
        sources=(
            Source(tenant="long", shape=Shape(input_mean=400, output_mean=3_500, max_tokens=4_000, spread=0.3)),
            Source(tenant="short", shape=Shape(input_mean=400, output_mean=150, max_tokens=4_000)),
            Source(tenant="input", shape=Shape(input_mean=8_000, output_mean=100, max_tokens=300)),
        ),
        limits=QuotaLimits(tokens_per_minute=4_000_000, requests_per_minute=20_000, burndown=5.0),
        slots=512,
        seconds=seconds,
    )


def on_off(seconds: float) -> World:
    """A tenant that is silent for two minutes and then floods for one, beside two that are always backlogged."""
    shape = Shape(input_mean=1_500, output_mean=400, max_tokens=1_500)
    bursts = tuple((float(t), 420.0) for t in range(120, int(seconds), 180))
    return World(
        name="on-off",
        sources=(
            Source(tenant="on-off", shape=shape, bursts=bursts),
            Source(tenant="steady-1", shape=shape),
            Source(tenant="steady-2", shape=shape),
        ),
        limits=TOKENS,
        seconds=seconds,
    )


def agents(seconds: float) -> World:
    """Agents with many small calls and pauses for tools, beside tenants with few large calls."""
    agent = Shape(input_mean=500, output_mean=120, max_tokens=600, turns=8, tool_wait_s=1.0)
    large = Shape(input_mean=5_000, output_mean=1_200, max_tokens=3_000)
    return World(
        name="agents",
        sources=(
            Source(tenant="agents-1", shape=agent),
            Source(tenant="agents-2", shape=agent),
            Source(tenant="large-1", shape=large),
            Source(tenant="large-2", shape=large),
        ),
        limits=TOKENS,
        seconds=seconds,
    )


def classes(seconds: float) -> World:
    """All three classes under full load, two tenants in each."""
    shape = Shape(input_mean=800, output_mean=250, max_tokens=1_000)
    return World(
        name="classes",
        sources=tuple(
            Source(tenant=tenant, job_class=name, shape=shape, bursts=((0.0, inf),))
            for name in ("interactive", "standard", "batch")
            for tenant in ("a", "b")
        ),
        limits=TOKENS,
        seconds=seconds,
    )
