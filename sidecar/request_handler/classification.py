"""Which class a job runs in: the subject says it, the tenant's policy bounds it. Pure."""

from collections.abc import Collection

from sidecar.errors import Permanent
from sidecar.models.base import JOB_CLASSES, JobClass


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
