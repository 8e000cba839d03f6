"""The screen of `sidecar top`, from the last statistics of each replica."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sidecar.cli.tables import add_row
from sidecar.models.shown import visible
from sidecar.models.stats import ClassStats, LaneStats, PoolStats, Stats, TenantStats

_HEALTH = {"healthy": "green", "degraded": "yellow", "open": "red", "unknown": "dim"}
_STATE = {"running": "green", "degraded": "yellow", "starting": "cyan", "draining": "cyan"}
MOST_POOLS = 15


def screen(heard: Mapping[str, Stats], *, most: int) -> Group:
    """Everything, the scheduler's figures above, replicas below; `most` tenants at most."""
    scheduler = next((stats for stats in heard.values() if stats.is_scheduler), None)
    parts: list[Text | Table] = [_headline(heard, scheduler), *_holds(heard), *_pauses(scheduler)]
    if scheduler is not None:
        parts += [_tenants(scheduler, most), _classes(scheduler.classes), _pools(scheduler.pools)]
    return Group(*parts, _replicas(heard))


def _headline(heard: Mapping[str, Stats], scheduler: Stats | None) -> Text | Table:
    if scheduler is None:
        return Text(f"{len(heard)} replicas, none of them schedules at the moment", style="yellow")
    slots = sum(stats.slots for stats in heard.values())
    text = f"{scheduler.time}  {scheduler.queued} queued, {scheduler.running} running on {slots} slots"
    return Text(visible(f"{text}, {scheduler.replicas} replicas, {scheduler.replica} schedules"), style="bold")


def _holds(heard: Mapping[str, Stats]) -> list[Text]:
    """Why no calls can be made, each cause once, with who has it and what to do."""
    lines: list[Text] = []
    waiting = max((stats.held for stats in heard.values()), default=0)
    for cause in dict.fromkeys(hold.cause for stats in heard.values() for hold in stats.holds):
        found = [(stats, hold) for stats in heard.values() for hold in stats.holds if hold.cause == cause]
        hold = max((hold for _, hold in found), key=lambda hold: hold.since_s)
        who = "" if len(found) == len(heard) else f" on {', '.join(stats.replica for stats, _ in found)}"
        text = f"HELD{who}: {hold.reason}, for {hold.since_s:.0f} s; {waiting} jobs wait. {hold.remedy}"
        lines.append(Text(visible(text), style="bold red"))
    return lines


def _pauses(scheduler: Stats | None) -> list[Text]:
    """What operators hold back."""
    lines: list[Text] = []
    for pause in scheduler.pauses if scheduler is not None else ():
        named = (("tenant", pause.tenant), ("class", pause.job_class), ("model", pause.model))
        what = ", ".join(f"{name} {value}" for name, value in named if value is not None) or "everything"
        why = f": {pause.reason}" if pause.reason else ""
        lines.append(Text(visible(f"PAUSED since {pause.since}: {what}{why}"), style="bold yellow"))
    return lines


def _table(title: str, names: str, numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    for name in names.split(","):
        table.add_column(name, overflow="fold")
    for name in numbers.split(","):
        table.add_column(name, justify="right")
    return table


def _tenants(stats: Stats, most: int) -> Table:
    table = _table("", "tenant", "queued,running,wait p50,wait p95,share,of weight,tokens/min,spent today")
    for tenant in stats.tenants[:most]:
        add_row(table, tenant.tenant, *_tenant_cells(tenant))
    rest, other = stats.tenants[most:], stats.other_tenants
    if rest or other.tenants:
        lanes = [lane for tenant in rest for lane in tenant.lanes]
        add_row(
            table,
            Text(f"{len(rest) + other.tenants} others", style="dim"),
            str(sum(lane.queued for lane in lanes) + other.queued),
            str(sum(lane.running for lane in lanes) + other.running),
            "",
            "",
            "",
            "",
            f"{sum(tenant.tokens_per_minute for tenant in rest) + other.tokens_per_minute:,}",
            f"${sum(tenant.spend_today_usd for tenant in rest) + other.spend_today_usd:,.2f}",
        )
    return table


def _tenant_cells(tenant: TenantStats) -> tuple[str | Text, ...]:
    spent = f"${tenant.spend_today_usd:,.2f}"
    if tenant.budget_today_usd is not None:
        is_near = tenant.spend_today_usd > 0.9 * tenant.budget_today_usd
        money = Text(f"{spent} of ${tenant.budget_today_usd:,.2f}", style="red" if is_near else "")
    else:
        money = Text(spent)
    return (
        str(sum(lane.queued for lane in tenant.lanes)),
        str(sum(lane.running for lane in tenant.lanes)),
        _wait(tenant.lanes, "wait_p50_ms"),
        _wait(tenant.lanes, "wait_p95_ms"),
        f"{tenant.share:.1%}",
        f"{tenant.fair_share:.1%}",
        f"{tenant.tokens_per_minute:,}",
        money,
    )


def _wait(lanes: tuple[LaneStats, ...], name: str) -> str:
    """That of the tenant's worst lane."""
    waits = [wait for lane in lanes if (wait := getattr(lane, name)) is not None]
    return _seconds(max(waits)) if waits else ""


def _seconds(ms: int) -> str:
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:,.1f} s"


def _classes(classes: tuple[ClassStats, ...]) -> Table:
    table = _table("", "class", "queued,running,share,of weight")
    for each in classes:
        numbers = (str(each.queued), str(each.running), f"{each.share:.1%}", f"{each.fair_share:.1%}")
        add_row(table, each.job_class, *numbers)
    return table


def _pools(pools: tuple[PoolStats, ...]) -> Table:
    table = _table("", "model,region,health", "in flight,quota used,tokens/min,left,refused/min")
    for pool in sorted(pools, key=lambda pool: (-pool.in_flight, -pool.used_share, pool.model))[:MOST_POOLS]:
        add_row(
            table,
            pool.model,
            pool.region,
            Text(pool.health, style=_HEALTH[pool.health]),
            str(pool.in_flight),
            f"{pool.used_share:.1%}",
            "" if pool.tokens_per_minute is None else f"{pool.tokens_per_minute:,}",
            "" if pool.tokens_remaining is None else f"{pool.tokens_remaining:,}",
            Text(str(pool.throttles_last_minute), style="red" if pool.throttles_last_minute else ""),
        )
    return table


def _replicas(heard: Mapping[str, Stats]) -> Table:
    table = _table("", "replica,state,version", "slots used,of,up")
    for stats in sorted(heard.values(), key=lambda stats: stats.replica):
        name = f"{stats.replica} *" if stats.is_scheduler else stats.replica
        add_row(
            table,
            name,
            Text(stats.state, style=_STATE[stats.state]),
            stats.version,
            str(stats.slots_used),
            str(stats.slots),
            f"{stats.uptime_s:,.0f} s",
        )
    return table
