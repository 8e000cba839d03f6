"""Semantic versions and ranges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.models.subjects import token_version, version_token
from sidecar.tool_registry.versions import Version, highest, parse_range, parse_version

numbers = st.integers(0, 9_999)
cores = st.tuples(numbers, numbers, numbers)
labels = st.lists(st.from_regex(r"(0|[1-9][0-9]{0,4}|[a-z][a-z0-9-]{0,5})", fullmatch=True), max_size=3).map(tuple)
versions = st.builds(Version, cores, labels, st.sampled_from(["", "b1", "build.5", "sha-0a"]))


@settings(max_examples=40)
@given(versions)
def test_a_version_is_what_its_text_says(version: Version) -> None:
    assert parse_version(str(version)) == version
    assert token_version(version_token(str(version))) == str(version)
    assert "." not in version_token(str(version))


def test_precedence_is_that_of_the_specification() -> None:
    before = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    texts = ["0.9.9", *before, "1.0.0-rc.1", "1.0.0", "1.0.1", "1.1.0", "1.9.0", "1.10.0", "2.0.0"]
    assert [str(version) for version in sorted(map(parse_version, reversed(texts)))] == texts


@settings(max_examples=40)
@given(versions, versions)
def test_versions_are_totally_ordered(one: Version, other: Version) -> None:
    assert (one < other) + (one > other) + (one == other) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "1.2.3 "),
        *("1.2.x", "-1.2.3", "1.2.3-a_b", "1.2.3\n", "\uff11.2.3", "1.2.3-é", "99999999999999999999.0.0"),
    ],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="semantic version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        ("*", "0.0.0 1.2.3 9.9.9", "1.0.0-rc.1"),
        ("", "0.0.0 1.2.3", "1.0.0-rc.1"),
        ("1.2.3", "1.2.3 1.2.3+b1", "1.2.4 1.2.2 1.2.3-rc.1"),
        ("=1.2.3", "1.2.3", "1.2.4"),
        ("1.2.3-rc.1", "1.2.3-rc.1", "1.2.3 1.2.3-rc.2"),
        ("^1.2.3", "1.2.3 1.2.9 1.99.0", "1.2.2 2.0.0 2.0.0-rc.1 1.3.0-rc.1"),
        ("^1.2", "1.2.0 1.3.0", "1.1.9 2.0.0"),
        ("^1", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2 1.0.0"),
        ("^0.0.3", "0.0.3", "0.0.4 0.1.0 0.0.2"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.1 0.9.0", "1.0.0"),
        ("^1.2.3-rc.2", "1.2.3-rc.2 1.2.3-rc.10 1.2.3 1.5.0", "1.2.3-rc.1 1.2.4-rc.3 2.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        ("1.2", "1.2.0 1.2.7", "1.3.0"),
        ("1", "1.0.0 1.7.0", "2.0.0"),
        ("1.x", "1.0.0 1.7.0", "2.0.0"),
        ("1.2.*", "1.2.0 1.2.7", "1.3.0"),
    ],
)
def test_a_range_has_what_npm_says(wanted: str, inside: str, outside: str) -> None:
    found = parse_range(wanted)
    assert [t for t in inside.split() if not found.has(parse_version(t))] == []
    assert [t for t in outside.split() if found.has(parse_version(t))] == []


@pytest.mark.parametrize(
    "text", [">=1", "latest", "1.2.3 || 2", "^", "~x", "=1.2", "1.2.3.4", "^1.2.3.4", "1..2", "^*"]
)
def test_what_is_no_range_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"use 1\.2\.0"):
        parse_range(text)


@given(st.text(max_size=20))
def test_any_text_is_a_range_or_refused(text: str) -> None:
    try:
        found = parse_range(text)
    except ValueError:
        return
    assert not found.has(parse_version("99999999.0.0-x"))


@settings(max_examples=40)
@given(versions.filter(lambda v: not v.is_prerelease), st.lists(versions, max_size=8))
def test_a_caret_gives_the_highest_release_of_the_same_line_from_there_on(
    low: Version, others: list[Version]
) -> None:
    offered = [low, *others]
    found = highest(parse_range(f"^{'.'.join(map(str, low.core))}"), [(version, version) for version in offered])
    assert found is not None
    if low.core[0]:
        fitting = [v for v in offered if not v.is_prerelease and v.core[0] == low.core[0] and v.core >= low.core]
        assert found == max(fitting)
    assert found.core >= low.core


def test_nothing_fits_nothing() -> None:
    assert highest(parse_range("*"), []) is None
    assert highest(parse_range("^2"), [(parse_version("1.0.0"), "one")]) is None
