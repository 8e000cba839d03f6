"""The nats-servers that are tried, and the documentation's table of them."""

from scripts.servers import BEGIN, END, PAGE, Case, Outcome, parse_case, pinned, table
from sidecar.adapters.nats.streams.levels import OLDEST_SERVER


def documented() -> str:
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return rest.partition(END)[0]


def test_releases_mixtures_and_refusals_are_told_apart() -> None:
    assert parse_case("2.12.8") == Case(("2.12.8",))
    assert parse_case("2.11.11 2.15.1") == parse_case("2.11.11+2.15.1") == Case(("2.11.11", "2.15.1"))
    assert parse_case("2.10.26 refused") == Case(("2.10.26",), is_refused=True)


def test_only_what_is_supported_is_expected_to_run() -> None:
    for case in pinned():
        for release in case.releases:
            line = tuple(int(part) for part in release.split(".")[:2])
            assert case.is_refused is (line < OLDEST_SERVER), release


def test_a_run_without_a_test_or_with_a_failure_is_no_success() -> None:
    case = Case(("2.12.8",))
    assert Outcome(case, passed=3, failed=0, skipped=1, elapsed_s=1.0).is_ok
    assert not Outcome(case, passed=0, failed=0, skipped=9, elapsed_s=1.0).is_ok
    failed = Outcome(case, passed=3, failed=2, skipped=0, elapsed_s=1.0)
    assert not failed.is_ok
    assert "**2 failed**" in table([failed])


def test_the_documentation_has_every_server_that_is_tried_and_each_has_passed() -> None:
    rows = [row.split("|")[1].strip() for row in documented().strip().splitlines()[2:]]
    assert rows == [case.name for case in pinned()], "run ./dev test-servers --write"
    assert "failed" not in documented()
