"""Users of the NATS server that only look, as the dashboard does. Pure."""

from sidecar.models.subjects import Subjects

WATCHER = "dashboard"
WATCHER_INBOX = "_INBOX.dashboard"
_READS = {"get": 2, "replay": 2, "jobs": 1, "models": 1}


def watcher_of(tenant: str) -> str:
    """The name of the user that sees this tenant's jobs and nothing else."""
    return f"{tenant}-{WATCHER}"


def watching(subjects: Subjects, *, tenant: str | None = None) -> tuple[list[str], list[str]]:
    """What a watcher may publish and subscribe to: of all tenants and the statistics, or of one tenant alone.

    The requests it may make change nothing. Its answers come to an inbox prefix of its own.
    """
    publish = [subjects.endpoint(verb, tenant or "*", *["*"] * (tokens - 1)) for verb, tokens in _READS.items()]
    if tenant is None:
        return publish, [subjects.sys("stats"), subjects.endpoint("job", ">"), f"{WATCHER_INBOX}.>"]
    return publish, [subjects.endpoint("job", tenant, ">"), f"_INBOX_{tenant}.{WATCHER}.>"]
