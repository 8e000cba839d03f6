"""Where to connect and as whom."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.adapters.nats.client.context import ConnectTarget, resolve
from sidecar.config.connection import NatsEnvironment, nats_environment
from sidecar.config.settings import NatsSettings
from sidecar.errors import StartupError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "nats" / "context").mkdir(parents=True)
    return tmp_path


def write(home: Path, name: str, *, selected: bool = False, **fields: Any) -> None:
    (home / "nats" / "context" / f"{name}.json").write_text(json.dumps(fields), "utf-8")
    if selected:
        (home / "nats" / "context.txt").write_text(f"{name}\n", "utf-8")


def test_localhost_without_any_settings(home: Path) -> None:
    target = resolve(NatsSettings(), NatsEnvironment(config_dir=home))
    assert target == ConnectTarget(servers=("nats://127.0.0.1:4222",), source="the default")


def test_settings_come_before_the_environment_and_that_before_the_selected_context(home: Path) -> None:
    write(home, "main", selected=True, url="nats://context:1")
    in_context = NatsEnvironment(config_dir=home)
    in_environment = in_context._replace(url="nats://environment:1")
    assert resolve(NatsSettings(), in_context).servers == ("nats://context:1",)
    assert resolve(NatsSettings(), in_environment).servers == ("nats://environment:1",)
    given = resolve(NatsSettings(url="nats://a:1, nats://b:2"), in_environment)
    assert given.servers == ("nats://a:1", "nats://b:2")
    assert given.source == "nats.url"


def test_a_named_context_gives_what_is_not_given_elsewhere(home: Path) -> None:
    creds = home / "user.creds"
    creds.touch()
    write(
        home,
        "prod",
        url="tls://n:4222",
        creds=str(creds),
        inbox_prefix="_INBOX_side",
        jetstream_domain="hub",
        description="ignored",
        nsc="",
    )
    target = resolve(NatsSettings(), NatsEnvironment(context="prod", config_dir=home))
    assert (target.servers, target.creds) == (("tls://n:4222",), creds)
    assert (target.inbox_prefix, target.api_prefix) == ("_INBOX_side", "$JS.hub.API")
    overridden = resolve(NatsSettings(context="prod", url="nats://x:1"), NatsEnvironment(config_dir=home))
    assert (overridden.servers, overridden.creds) == (("nats://x:1",), creds)


def test_ways_to_log_in_are_not_mixed(home: Path) -> None:
    write(home, "main", selected=True, url="nats://n:1", user="context", password="context")
    environment = NatsEnvironment(token="environment", config_dir=home)
    target = resolve(NatsSettings(), environment)
    assert (target.user, target.password, target.token) == (None, None, "environment")
    target = resolve(NatsSettings(user="settings"), environment)
    assert (target.user, target.password, target.token) == ("settings", None, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": "missing"}, "no NATS context 'missing'"),
        ({"context": "../../etc/passwd"}, "no NATS context"),
        ({"context": "broken"}, "cannot be read"),
        ({"url": "ws://x"}, "nats:// or tls://"),
        ({"url": " , "}, "names no server"),
        ({"creds": "/nowhere.creds"}, "credentials file /nowhere.creds does not exist"),
        ({"tls_ca": "/nowhere.pem"}, "CA file /nowhere.pem does not exist"),
    ],
)
def test_what_cannot_be_meant_stops_the_start(home: Path, settings: dict[str, Any], words: str) -> None:
    (home / "nats" / "context" / "broken.json").write_text("{", "utf-8")
    with pytest.raises(StartupError, match=words):
        resolve(NatsSettings(**settings), NatsEnvironment(config_dir=home))


def test_secrets_are_not_shown(home: Path) -> None:
    environment = NatsEnvironment(password="hush", token="hush", config_dir=home)
    assert "hush" not in repr(environment)
    assert "hush" not in repr(resolve(NatsSettings(token="hush"), environment))


def test_the_environment_is_read_under_the_names_of_the_nats_cli(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name in ("URL", "CREDS", "CONTEXT", "USER", "PASSWORD", "TOKEN", "NKEY", "CERT", "KEY", "CA"):
        monkeypatch.setenv(f"NATS_{name}", name.lower())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("NATS_TOKEN", "")
    read = nats_environment()
    assert (read.url, read.creds, read.context, read.token, read.config_dir) == (
        "url",
        "creds",
        "context",
        None,
        home,
    )
