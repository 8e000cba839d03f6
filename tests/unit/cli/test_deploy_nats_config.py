"""The generator of the NATS server's configuration."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.main import main
from sidecar.cli.nats_config import SIDECAR, Mode, Watchers, password_variable, render
from sidecar.errors import StartupError
from sidecar.models.subjects import is_name

SHIPPED = Path(__file__).parents[3] / "deploy/nats"


@pytest.mark.parametrize("mode", ["accounts", "users"])
def test_the_shipped_files_are_what_the_command_prints(mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nats-config", "--tenants", "acme, globex", "--mode", mode]) == 0
    assert (SHIPPED / f"{mode}.conf").read_text("utf-8") == capsys.readouterr().out


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ((), "no tenant was named"),
        (("a.b",), "no tenant's name"),
        (("*",), "no tenant's name"),
        (('a" }',), "no tenant's name"),
        (("shared",), "reserved"),
        ((SIDECAR,), "reserved"),
        (("a-b", "a_b"), "LLM_PASSWORD_A_B"),
        (("acme", "acme"), "LLM_PASSWORD_ACME"),
        (("acme", "Acme"), "LLM_PASSWORD_ACME"),
    ],
)
def test_names_that_cannot_be_kept_apart_are_refused(tenants: tuple[str, ...], said: str) -> None:
    for mode in ("accounts", "users"):
        with pytest.raises(StartupError, match=said):
            render(tenants, mode=mode)


@pytest.mark.parametrize("prefix", ["llm", "a.b.c"])
def test_the_position_is_that_of_the_tenant(prefix: str) -> None:
    lines = [
        line for line in render(("acme",), mode="accounts", prefix=prefix).splitlines() if "_position" in line
    ]
    assert len(lines) == 12
    for line in lines:
        subject = line.split('"')[1].split(".")
        position = int(line.partition("account_token_position: ")[2].split()[0].strip(","))
        assert subject[position - 1] == "*"
        assert subject[: position - 2] == [*prefix.split("."), "v1"]


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True), min_size=2, max_size=5, unique=True))
def test_a_tenants_block_names_no_other_tenant(tenants: list[str]) -> None:
    assert all(is_name(tenant) for tenant in tenants)
    try:
        text = render(tenants, mode="accounts")
    except StartupError:
        return
    own = text.partition(f'  "{tenants[0]}": {{\n')[2].partition("\n  }\n")[0]
    imported = [line.split('"')[1].split(".")[3] for line in own.splitlines() if "account: " in line]
    assert set(imported) == {tenants[0]}
    assert text.count(f"${password_variable(tenants[0])} ") == 1


@pytest.mark.parametrize("mode", ["accounts", "users"])
def test_a_user_for_shared_tools_registers_and_answers_and_can_do_no_more(mode: Mode) -> None:
    assert '"shared"' not in render(("acme",), mode=mode)
    text = render(("acme",), mode=mode, watchers=Watchers(shared_tools=True))
    assert " --shared-tools\n" in text
    (line,) = [line for line in text.splitlines() if 'user: "shared"' in line]
    assert 'publish: ["llm.v1.tools.shared.*", "llm.v1.call.shared.*.*.cancel"]' in line
    assert 'subscribe: ["llm.v1.call.shared.>", "_INBOX_shared.>", "$SRV.>"]' in line
