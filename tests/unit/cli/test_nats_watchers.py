"""The users that only look, as the generator makes them."""

import pytest

from sidecar.cli.main import main
from sidecar.cli.nats_config import Mode, Watchers, render, watching
from sidecar.errors import StartupError
from sidecar.models.subjects import Subjects

BOTH = Watchers(all_tenants=True, each_tenant=True)
CHANGING = ("request", "ask", "cancel", "tools", "objects", "call", "log", "$JS", "$KV", ">")


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_watcher_may_ask_and_not_change(tenant: str | None) -> None:
    publish, _ = watching(Subjects("llm"), tenant=tenant)
    verbs = {subject.split(".")[2] for subject in publish}
    assert verbs == {"get", "replay", "jobs", "models", "spend"} | ({"admin"} if tenant is None else set())
    assert [subject for subject in publish if "admin" in subject] in (
        [],
        ["llm.v1.admin.spend", "llm.v1.admin.jobs"],
    )
    assert not verbs & set(CHANGING)


def test_a_tenants_watcher_names_no_other_tenant_and_no_statistics() -> None:
    for subject in (s for part in watching(Subjects("a.b"), tenant="acme") for s in part):
        assert "acme" in subject
        assert "sys" not in subject
        assert subject.startswith(("a.b.v1.", "_INBOX_acme.dashboard."))


@pytest.mark.parametrize("mode", ["accounts", "users"])
def test_watchers_are_there_only_when_asked_for(mode: Mode) -> None:
    assert "dashboard" not in render(("acme",), mode=mode)
    text = render(("acme", "globex"), mode=mode, watchers=BOTH)
    for variable in ("DASHBOARD", "ACME_DASHBOARD", "GLOBEX_DASHBOARD"):
        assert text.count(f"$LLM_PASSWORD_{variable},") == 1
    assert text.splitlines()[0].endswith("--tenants acme,globex --dashboard --tenant-dashboards")


@pytest.mark.parametrize("tenants", [("dashboard",), ("acme", "acme-dashboard"), ("acme", "ACME_dashboard")])
def test_a_tenant_with_a_watchers_password_is_refused(tenants: tuple[str, ...]) -> None:
    render(tenants, mode="users")
    with pytest.raises(StartupError, match="would share"):
        render(tenants, mode="users", watchers=BOTH)


def test_the_command_takes_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nats-config", "--tenants", "acme", "--dashboard"]) == 0
    text = capsys.readouterr().out
    assert 'user: "dashboard"' in text
    assert "acme-dashboard" not in text
