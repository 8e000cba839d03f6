"""What the scheduler leaves to its successor: virtual times, predictions and buckets.

Written once a second; losing one costs at most a second of charges. Times are relative to the moment of writing,
with the wall clock beside them, since monotonic clocks of two processes have nothing in common. Lanes are lists
to keep it small: `[tenant, virtual time, ratio]`, about 40 bytes each.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from sidecar.ports.bus import Lane
from sidecar.scheduler.backlog import Backlog
from sidecar.scheduler.fair_share import Flow, Market
from sidecar.scheduler.ledger import Ledger

VERSION = 1
MAX_LANES = 20_000

# Beyond it sums of floats stand still.
_Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


class _Class(msgspec.Struct):
    vt: _Number
    lines: list[tuple[list[str], _Number]]


class _Market(msgspec.Struct):
    vt: _Number
    v: _Number
    classes: dict[str, _Class]


class _Pool(msgspec.Struct):
    level: _Number
    requests: _Number | None
    factor: _Number
    learned: _Number
    closed_s: _Number
    probing: bool
    day_s: _Number
    day_used: _Number
    seconds_per_token: _Number
    step: _Number | None = None


class _Checkpoint(msgspec.Struct):
    """What `snapshot` makes, for checking. Fields of later versions are not looked at."""

    epoch: _Number
    v: _Number
    markets: dict[str, _Market]
    lanes: dict[str, dict[str, list[tuple[str, _Number, _Number]]]]
    pools: dict[str, _Pool]
    holds: list[tuple[str, str, _Number]] = []


def snapshot(backlog: Backlog, ledger: Ledger, *, now: float) -> dict[str, Any]:
    """The state as JSON-able values. Idle lanes without debts are forgotten on the way."""
    backlog.forget_idle()
    lanes: dict[str, dict[str, list[list[Any]]]] = {}
    flows = [flow for state in backlog.lanes.values() for flow in state.flows.values()]
    if len(flows) > MAX_LANES:
        flows.sort(key=lambda flow: -flow.vt)
    for flow in flows[:MAX_LANES]:
        market = lanes.setdefault(flow.share.market.key, {})
        market.setdefault(flow.share.name, []).append([flow.lane.tenant, round(flow.vt, 5), round(flow.ratio, 4)])
    return {
        "version": VERSION,
        "epoch": now + ledger.epoch_offset,
        "v": backlog.share.v,
        "markets": {key: _market_state(market) for key, market in backlog.share.markets.items()},
        "lanes": lanes,
        "pools": {key: pool.checkpoint(now=now) for key, pool in ledger.pools.items()},
        "holds": backlog.holding.holds.snapshot(now=now),
    }


def _market_state(market: Market) -> dict[str, Any]:
    return {
        "vt": market.vt,
        "v": market.v,
        "classes": {
            name: {"vt": share.vt, "lines": [[sorted(line.pools), line.v] for line in share.lines.values()]}
            for name, share in market.shares.items()
        },
    }


def restore(state: Mapping[str, Any], backlog: Backlog, ledger: Ledger, *, now: float) -> None:
    """Go on from a snapshot. Raises ValueError for another version or a document that is none."""
    _check(state)
    _restore(state, backlog, ledger, now)


def _check(state: Any) -> None:
    """Before anything is taken over: half a checkpoint, or one with a stranger's numbers, is worse than none."""
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise ValueError(f"checkpoint version {str(version)[:40]!r} is not {VERSION}")
    try:
        msgspec.convert(state, _Checkpoint)
    except msgspec.ValidationError as e:
        raise ValueError(f"the checkpoint is not complete: {e}") from e


def _restore(state: Mapping[str, Any], backlog: Backlog, ledger: Ledger, now: float) -> None:
    ledger.now = now
    age_s = max(0.0, now + ledger.epoch_offset - float(state["epoch"]))
    backlog.share.v = float(state["v"])
    for key, saved in state["markets"].items():
        _restore_market(backlog.share.market(key), saved)
    for key, classes in state["lanes"].items():
        for name, lanes in classes.items():
            if name in backlog.share.classes:
                for tenant, vt, ratio in lanes:
                    flow: Flow = backlog.flow(Lane(tenant, name), key)
                    flow.vt = float(vt)
                    flow.ratio = float(ratio)
    for key, saved in state["pools"].items():
        ledger.pool(key).restore(saved, now=now, age_s=age_s)
    backlog.holding.holds.restore(state.get("holds", ()), now=now, age_s=age_s)


def _restore_market(market: Market, saved: Mapping[str, Any]) -> None:
    market.vt = float(saved["vt"])
    market.v = float(saved["v"])
    for name, of_class in saved["classes"].items():
        share = market.shares.get(name)
        if share is not None:
            share.vt = float(of_class["vt"])
            for pools, v in of_class["lines"]:
                share.line(frozenset(pools)).v = float(v)
