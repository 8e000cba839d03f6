"""`sidecar top` on a live demo."""

import io
import json

from rich.console import Console

from sidecar.cli.top_view import screen
from sidecar.models.stats import ClassStats, LaneStats, OtherTenants, PoolStats, Stats, TenantStats
from tests.support.demo import Demo, command


def tenant(name: str, **more: object) -> TenantStats:
    fields = {
        "tenant": name,
        "weight": 3.0,
        "lanes": (LaneStats(job_class="batch", queued=7, running=2, wait_p50_ms=40, wait_p95_ms=2_500),),
        "share": 0.7412,
        "fair_share": 0.75,
        "tokens_per_minute": 12_345,
        "spend_today_usd": 4.6,
        "budget_today_usd": 5.0,
    }
    return TenantStats(**{**fields, **more})  # type: ignore[arg-type]


def stats(replica: str = "one", **more: object) -> Stats:
    fields = {
        "replica": replica,
        "version": "1",
        "time": "2026-11-22T10:00:00.000Z",
        "state": "running",
        "is_scheduler": True,
        "uptime_s": 3.0,
        "slots": 10,
        "slots_used": 2,
    }
    return Stats(**{**fields, **more})  # type: ignore[arg-type]


def shown(*heard: Stats, most: int = 20) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(screen({each.replica: each for each in heard}, most=most))
    return console.export_text()


def test_the_screen_shows_tenants_pools_and_replicas() -> None:
    text = shown(
        stats(
            queued=9,
            running=2,
            replicas=2,
            tenants=(tenant("acme"), tenant("evil\x1b[2J", budget_today_usd=None)),
            other_tenants=OtherTenants(tenants=5, queued=50, running=1, tokens_per_minute=10, spend_today_usd=1.5),
            classes=(ClassStats(job_class="batch", weight=1, queued=9, running=2, share=1.0, fair_share=1.0),),
            pools=(
                PoolStats(
                    model="claude",
                    invoke_id="x",
                    region="eu-west-1",
                    in_flight=2,
                    used_share=0.974,
                    tokens_per_minute=100_000,
                    tokens_remaining=12,
                    throttles_last_minute=3,
                    health="open",
                ),
            ),
        ),
        stats("two", is_scheduler=False),
    )
    for part in ("9 queued, 2 running on 20 slots", "74.1%", "75.0%", "40 ms", "2.5 s", "$4.60 of $5.00", "97.4%"):
        assert part in text
    assert "5 others" in text
    assert "\x1b" not in text


def test_tenants_beyond_the_screen_are_summed_up() -> None:
    text = shown(stats(tenants=tuple(tenant(f"t{i}") for i in range(6))), most=2)
    assert "4 others" in text
    assert "t5" not in text


def test_without_a_scheduler_the_replicas_are_shown() -> None:
    assert "none of them schedules" in shown(stats(is_scheduler=False))


def test_one_look_as_json_and_as_a_table(demo: Demo) -> None:
    done = command("top", "--once", "--json", "--server", demo.nats)
    assert done.returncode == 0, done.stderr
    (replica,) = json.loads(done.stdout)["replicas"]
    assert replica["is_scheduler"] is True
    assert replica["state"] == "running"
    done = command("top", "--once", "--server", demo.nats)
    assert "schedules" in done.stdout
    assert "share" in done.stdout


def test_where_nobody_speaks_the_exit_code_says_so(demo: Demo) -> None:
    done = command("top", "--once", "--prefix", "nobody", "--server", demo.nats)
    assert done.returncode == 4
    assert "no sidecar" in done.stderr
