"""What is refused at once, with which code and numbers."""

import pytest

from sidecar.config.settings import TenantPolicy
from sidecar.errors import Permanent, SidecarError, Temporary
from sidecar.models.profile import QuotaLimits
from sidecar.request_handler import admission
from sidecar.request_handler.admission import AdmissionQuery, classify


def asked(**changes: object) -> AdmissionQuery:
    fields: dict[str, object] = {
        "tenant": "acme",
        "input_tokens": 1_000,
        "max_tokens": 500,
        "pools": {"x": QuotaLimits(tokens_per_minute=10_000)},
        "queued": 0,
        "now": 1_000.0,
    }
    return AdmissionQuery(**{**fields, **changes})  # type: ignore[arg-type]


def refusal(job: AdmissionQuery, **policy: object) -> SidecarError:
    allowed = TenantPolicy(**policy)  # type: ignore[arg-type]
    try:
        admission.check_tenant(job.tenant, policy=allowed)
        admission.admit(job, policy=allowed)
    except SidecarError as e:
        return e
    pytest.fail("the job was let in")


def test_an_ordinary_job_is_admitted() -> None:
    admission.admit(asked(deadline=1_060.0, wait_s=10.0), policy=TenantPolicy())


def test_a_denied_tenant_learns_who_can_help() -> None:
    error = refusal(asked(), deny=True)
    assert error.code == "tenant_denied"
    assert "operator" in error.message


def test_a_full_queue_is_temporary_and_says_how_full() -> None:
    error = refusal(asked(queued=5), max_queue=5)
    assert isinstance(error, Temporary)
    assert (error.code, error.details) == ("queue_full", {"queued": 5, "max_queue": 5})


def test_a_job_larger_than_every_quota_is_refused_with_the_numbers() -> None:
    pools = {"x": QuotaLimits(tokens_per_minute=1_000), "y": QuotaLimits(tokens_per_minute=1_400)}
    error = refusal(asked(pools=pools))
    assert isinstance(error, Permanent)
    assert error.code == "quota_exceeded"
    assert error.details["needed_tokens"] == 1_500
    assert error.details["tokens_per_minute"] == {"x": 1_000, "y": 1_400}


@pytest.mark.parametrize("other", [QuotaLimits(), QuotaLimits(tokens_per_minute=1_500)])
def test_one_pool_that_can_hold_it_is_enough(other: QuotaLimits) -> None:
    admission.admit(asked(pools={"x": QuotaLimits(tokens_per_minute=1_000), "y": other}), policy=TenantPolicy())


def test_a_job_larger_than_the_tenants_own_tokens_a_minute_is_refused() -> None:
    error = refusal(asked(), tokens_per_minute=1_499)
    assert error.code == "quota_exceeded"
    assert error.details == {"needed_tokens": 1_500, "tenant_tokens_per_minute": 1_499}


def test_a_deadline_that_has_passed_is_refused() -> None:
    error = refusal(asked(deadline=998.5))
    assert (error.code, error.details) == ("deadline_exceeded", {"late_s": 1.5})


def test_a_deadline_that_the_own_backlog_overshoots_is_refused() -> None:
    error = refusal(asked(deadline=1_030.0, wait_s=31.0, queued=400))
    assert error.code == "deadline_exceeded"
    assert error.details == {"left_s": 30.0, "wait_s": 31.0, "queued": 400}
    admission.admit(asked(deadline=1_030.0, wait_s=29.0), policy=TenantPolicy())
    admission.admit(asked(deadline=1_030.0, wait_s=None), policy=TenantPolicy())


def test_the_class_is_the_subjects_where_the_tenant_may_use_it() -> None:
    assert classify("acme", "batch", allowed=("batch", "standard")) == "batch"


def test_a_class_the_tenant_may_not_use_is_refused_not_lowered() -> None:
    with pytest.raises(Permanent) as refused:
        classify("acme", "interactive", allowed=("batch", "standard"))
    assert refused.value.code == "tenant_denied"
    assert refused.value.details["allowed"] == ["standard", "batch"]


def test_an_unknown_class_is_an_invalid_request() -> None:
    with pytest.raises(Permanent) as refused:
        classify("acme", "urgent", allowed=("batch",))
    assert refused.value.code == "invalid_request"
