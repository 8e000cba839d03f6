"""What is refused at once, with the code and the numbers that tell the caller what to change. Pure.

Each check raises what the job ends with, or returns. `check_tenant` comes first; `admit` is all of those that need
to know what the job asks for, in the order of their cost.
"""

from collections.abc import Collection, Mapping
from math import inf

import msgspec

from sidecar.config.settings import TenantPolicy
from sidecar.errors import Permanent, Temporary
from sidecar.models.base import JOB_CLASSES, JobClass
from sidecar.models.profile import QuotaLimits


class AdmissionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a job asks for. Tokens are estimates; `max_tokens` is the bound of one answer.

    `pools` are the quota pools it may run on. `deadline` and `now` are seconds since 1970. `queued` counts the
    jobs of its lane that are queued or running, without this one. `wait_s` is its own backlog at the fair rate;
    None where nothing is known.
    """

    tenant: str
    input_tokens: int
    max_tokens: int
    pools: Mapping[str, QuotaLimits]
    queued: int
    now: float
    deadline: float | None = None
    wait_s: float | None = None


def admit(asked: AdmissionQuery, *, policy: TenantPolicy) -> None:
    """Raise the first reason why the job can't be queued: Permanent, or Temporary for a full queue."""
    check_deadline(asked)
    check_queue(asked, policy=policy)
    check_size(asked, policy=policy)


def check_tenant(tenant: str, *, policy: TenantPolicy) -> None:
    """Raise `tenant_denied` where the policy lets the tenant do nothing."""
    if policy.deny:
        raise Permanent(
            f"tenant {tenant} is not allowed to use this sidecar: the operator has to add [tenants.{tenant}]",
            code="tenant_denied",
        )


def check_queue(asked: AdmissionQuery, *, policy: TenantPolicy) -> None:
    """Raise `queue_full` where the lane holds as many jobs as the tenant may have."""
    if asked.queued >= policy.max_queue:
        raise queue_full(asked.tenant, queued=asked.queued, max_queue=policy.max_queue)


def queue_full(tenant: str, *, queued: int, max_queue: int) -> Temporary:
    """The refusal of a job that comes to a lane of `queued` jobs."""
    return Temporary(
        f"{queued} jobs are queued or running, tenant {tenant} may have {max_queue}"
        " of one class: wait for results before you send more",
        code="queue_full",
        details={"queued": queued, "max_queue": max_queue},
    )


def check_size(asked: AdmissionQuery, *, policy: TenantPolicy) -> None:
    """Raise `quota_exceeded` for a job that could never start: larger than a minute's quota everywhere."""
    needed = asked.input_tokens + asked.max_tokens
    quotas = {pool: limits.tokens_per_minute for pool, limits in asked.pools.items()}
    largest = inf if None in quotas.values() or not quotas else max(filter(None, quotas.values()), default=0)
    if needed > largest:
        raise Permanent(
            f"the job needs {needed} tokens (input about {asked.input_tokens}, max_tokens {asked.max_tokens}),"
            f" the largest quota is {largest:.0f} a minute: shorten the input or lower max_tokens",
            code="quota_exceeded",
            details={
                "needed_tokens": needed,
                "input_tokens": asked.input_tokens,
                "max_tokens": asked.max_tokens,
                "tokens_per_minute": quotas,
            },
        )
    if policy.tokens_per_minute is not None and needed > policy.tokens_per_minute:
        raise Permanent(
            f"the job needs {needed} tokens, tenant {asked.tenant} may use {policy.tokens_per_minute} a minute:"
            " shorten the input or lower max_tokens",
            code="quota_exceeded",
            details={"needed_tokens": needed, "tenant_tokens_per_minute": policy.tokens_per_minute},
        )


def check_deadline(asked: AdmissionQuery) -> None:
    """Raise `deadline_exceeded` for a deadline that has passed, or that the lane's own backlog will overshoot."""
    if asked.deadline is None:
        return
    left_s = asked.deadline - asked.now
    if left_s <= 0:
        raise Permanent(
            f"the deadline passed {-left_s:.1f} s ago",
            code="deadline_exceeded",
            details={"late_s": round(-left_s, 3)},
        )
    if asked.wait_s is not None and asked.wait_s > left_s:
        raise Permanent(
            f"the deadline is in {left_s:.1f} s, but the tenant's own {asked.queued} jobs ahead take about"
            f" {asked.wait_s:.0f} s at its fair share: send it later, or with a later deadline",
            code="deadline_exceeded",
            details={"left_s": round(left_s, 3), "wait_s": round(asked.wait_s, 3), "queued": asked.queued},
        )


def classify(tenant: str, named: str, *, allowed: Collection[JobClass]) -> JobClass:
    """The class that a request's subject names.

    A class that the tenant may not use is refused rather than lowered: whoever asks for `interactive` and
    silently got `batch` would wait for something that never comes. Raises Permanent (`tenant_denied`).
    """
    if named not in JOB_CLASSES:
        raise Permanent(
            f"the subject's class {named[:80]!r} is not known: use {', '.join(JOB_CLASSES)}",
            code="invalid_request",
        )
    if named not in allowed:
        usable = [name for name in JOB_CLASSES if name in allowed]
        raise Permanent(
            f"tenant {tenant} may not use class {named}: use {', '.join(usable) or 'none; ask the operator'}",
            code="tenant_denied",
            details={"class": named, "allowed": usable},
        )
    return named
