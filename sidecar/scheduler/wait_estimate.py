"""What can be said about the queue without changing it: why a lane waits, how long, and the figures."""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from sidecar.ports.bus import Lane
from sidecar.scheduler.backlog import Backlog, LaneState
from sidecar.scheduler.fair_share import Queue, Share
from sidecar.scheduler.ledger import Ledger
from sidecar.scheduler.tickets import Ticket, WaitReason
from sidecar.scheduler.turns import NextCall


def blocked(
    lane: Lane, *, backlog: Backlog, ledger: Ledger, held: Mapping[str, float], now: float
) -> WaitReason | None:
    """Why nothing of a lane runs further. An estimate is given to the head of a line only."""
    state = backlog.lanes.get(lane)
    if state is None or not state.queued:
        return None
    waiting = [queue for flow in state.flows.values() for queue in flow.queues if queue.competes]
    if state.held and not waiting:
        return WaitReason("model")
    if any(flow.is_parked for flow in state.flows.values()):
        wakes_at = state.tenant.wakes_at
        return WaitReason("tenant", None if wakes_at == inf else max(wakes_at - now, 0.0))
    if not ledger.has_slot(lane.job_class):
        return WaitReason("slot")
    if all(key in held for queue in waiting for key in queue.line.pools):
        return WaitReason("quota", _quota_wait_s(waiting, ledger=ledger, held=held, now=now))
    return None


def _quota_wait_s(
    waiting: Iterable[Queue], *, ledger: Ledger, held: Mapping[str, float], now: float
) -> float | None:
    waits = [
        ledger.pool(key).wait_s(held[key], now=now)
        for queue in waiting
        if queue.line.head() is queue
        for key in queue.line.pools
    ]
    soonest = min(waits, default=inf)
    return None if soonest == inf else soonest


def turn_blocked(turn: NextCall, *, ledger: Ledger, held: Mapping[str, float], now: float) -> WaitReason:
    """Why a running job's next call is not made, and how long still where one of its pools can tell."""
    pools = turn.ticket.pools
    if not all(key in held for key in pools):
        return WaitReason("slot" if turn.flow.tenant.has_slot else "tenant")
    waits = [ledger.pool(key).wait_s(held[key], now=now) for key in pools]
    waits += [room.at - now for room in turn.later]
    soonest = min(waits)
    return WaitReason("quota", None if soonest == inf else max(soonest, 0.0))


def wait_s(
    ticket: Ticket, *, ahead: int, backlog: Backlog, ledger: Ledger, held: Mapping[str, float], now: float
) -> float:
    """The lane's own backlog ÷ its fair rate, in seconds: what waits at most, while nothing else changes.

    0.0 while there is room. The rate is the lane's share of the preferred pool by the weights that wait there
    now; what the bucket holds is served at once. Jobs ahead are taken to cost what this one does.
    """
    key = ticket.pools[0]
    if not ahead or (key not in held and ledger.has_slot(ticket.lane.job_class)):
        return 0.0
    pool = ledger.pool(key)
    flow = backlog.flow(ticket.lane, key)
    tokens = ticket.input_tokens + pool.burndown * flow.ratio * ticket.max_tokens
    prices = pool.prices
    cost = max(tokens * prices[0], prices[1])
    share = flow.share
    own: float = flow.tenant.weight
    in_class = own / max(_waiting_weight(share, without=flow.weighs) + own, own)
    of_class = share.weight / sum(s.weight for s in share.market.shares.values() if s.active or s is share)
    pool.refill(now)
    burst = max(pool.tokens.level, 0.0) * prices[0]
    rate: float = in_class * of_class * pool.factor
    return max(0.0, ahead * cost - burst * in_class * of_class) / rate


def _waiting_weight(share: Share, *, without: float) -> float:
    waiting: float = share.weighs - without
    return max(waiting, 0.0)


def stats(
    *, backlog: Backlog, ledger: Ledger, turns: int, held: Mapping[str, float], now: float, top: int
) -> dict[str, Any]:
    """The figures of `Scheduler.stats`. Lanes beyond `top` are left out and counted."""
    busy = [(lane, state) for lane, state in backlog.lanes.items() if state.queued or _running(state)]
    busy.sort(key=lambda entry: (-entry[1].queued - _running(entry[1]), entry[0]))
    total = sum(flow.served for _, state in busy for flow in state.flows.values()) or 1.0
    return {
        "queued": backlog.queued,
        "turns": turns,
        "running": len(ledger.open),
        "slots": {"total": ledger.slots, "used": ledger.slots_used, "kept": ledger.slots_kept},
        "pools": {key: _pool_stats(ledger, key, held, now) for key in sorted(ledger.pools)},
        "lanes": [_lane_stats(lane, state, total) for lane, state in busy[:top]],
        "lanes_left_out": max(0, len(busy) - top),
    }


def _running(state: LaneState) -> int:
    return sum(flow.running for flow in state.flows.values())


def _lane_stats(lane: Lane, state: LaneState, total: float) -> dict[str, Any]:
    served = sum(flow.served for flow in state.flows.values())
    return {
        "tenant": lane.tenant,
        "class": lane.job_class,
        "queued": state.queued,
        "running": _running(state),
        "weight": state.tenant.weight,
        "served_s": round(served, 3),
        "share": round(served / total, 4),
        "is_capped": any(flow.is_parked for flow in state.flows.values()),
    }


def _pool_stats(ledger: Ledger, key: str, held: Mapping[str, float], now: float) -> dict[str, Any]:
    pool = ledger.pools[key]
    pool.refill(now)
    return {
        "tokens_per_minute": pool.limits.tokens_per_minute,
        "rate_per_minute": round(pool.tokens.rate * 60),
        "available_tokens": round(pool.tokens.level),
        "used_tokens": round(pool.used),
        "used_per_minute": round(pool.used_per_minute(now)),
        "used_today": round(pool.day_used),
        "in_flight": pool.in_flight,
        "throttles": pool.throttles,
        "is_waited_for": key in held,
        "closed_s": round(max(0.0, pool.closed_until - now), 3),
    }
