"""What the manifests under deploy/ promise, read as a cluster reads them: names that the sidecar really knows."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.app import App
from sidecar.cli.main import COMMANDS
from sidecar.config.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RENDERED = sorted((DEPLOY / "rendered").glob("*.yaml"))
PATCHES = sorted((DEPLOY / "kustomize/component").glob("sidecar-patch*.yaml"))
WORKLOADS = [pytest.param(path, id=path.stem) for path in [*RENDERED, *PATCHES]]


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text("utf-8")) if found]


def pod_of(path: Path) -> dict[str, Any]:
    workload = next(found for found in documents(path) if found["kind"] in ("Deployment", "StatefulSet"))
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any]:
    containers = [*pod.get("initContainers", []), *pod.get("containers", [])]
    return next(c for c in containers if c["name"] == "llm-sidecar")


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "from a secret") for item in container["env"]}


async def admin_pages(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The paths that a starting process serves."""
    seen: set[str] = set()

    class Listening:
        def __init__(self, routes: dict[str, Any], **_: Any) -> None:
            seen.update(routes)

        async def start(self) -> None: ...

        async def close(self) -> None: ...

    monkeypatch.setattr("sidecar.app.AdminServer", Listening)
    await App(Settings())._start_admin()
    return seen


@pytest.mark.parametrize("path", WORKLOADS)
async def test_probes_and_the_drain_hook_ask_for_pages_that_exist(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = sidecar_of(pod_of(path))
    gets = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    wanted = {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert {name: get["path"] for name, get in gets.items()} == wanted
    assert {*wanted.values(), "/drain"} <= await admin_pages(monkeypatch)
    # By a command inside the pod: the page is not for the network.
    assert container["lifecycle"]["preStop"] == {"exec": {"command": ["sidecar", "drain"]}}
    assert "drain" in COMMANDS
    port = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert {get["port"] for get in gets.values()} == set(port)
    found = environment(container)
    assert found["SIDECAR_ADMIN__PORT"] == str(*port.values())
    assert found["SIDECAR_ADMIN__HOST"] == "0.0.0.0"


@pytest.mark.parametrize("path", WORKLOADS)
def test_a_pod_waits_longer_than_the_drain(path: Path) -> None:
    pod = pod_of(path)
    drain_s = float(environment(sidecar_of(pod))["SIDECAR_JOBS__DRAIN_S"])
    assert pod["terminationGracePeriodSeconds"] >= drain_s + 5


@pytest.mark.parametrize("path", WORKLOADS)
def test_the_container_has_no_rights_that_it_does_not_need(path: Path) -> None:
    pod = pod_of(path)
    container = sidecar_of(pod)
    context = container["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (
        65532,
        True,
        True,
    )
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(container["resources"]["limits"]) == {"memory"}
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert volumes["llm-sidecar-tmp"]["emptyDir"]["sizeLimit"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["llm-sidecar-tmp"]


@pytest.mark.parametrize("path", WORKLOADS)
def test_the_environment_is_one_that_the_sidecar_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment(sidecar_of(pod_of(path)))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.admin.host == "0.0.0.0"
    known = {"NATS_CREDS", "NATS_CA", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "AWS_REGION", "SIDECAR_CONFIG"}
    assert {name for name in found if not re.match(r"SIDECAR_[A-Z]+__", name)} <= known


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_the_component_adds_a_native_sidecar(path: Path) -> None:
    assert [c["restartPolicy"] for c in pod_of(path)["initContainers"]] == ["Always"]
    assert "containers" not in pod_of(path)


def test_a_leaf_node_stands_in_the_pod_before_the_sidecar_that_uses_it() -> None:
    pod = pod_of(DEPLOY / "rendered/leaf.yaml")
    (leaf,) = pod["initContainers"]
    assert (leaf["name"], leaf["restartPolicy"]) == ("llm-nats-leaf", "Always")
    assert environment(sidecar_of(pod))["SIDECAR_NATS__URL"] == "nats://127.0.0.1:4222"
    mounts = {mount["name"] for mount in leaf["volumeMounts"]}
    assert mounts == {"llm-leaf-config", "llm-leaf-credentials"} <= {volume["name"] for volume in pod["volumes"]}
    assert leaf["securityContext"]["readOnlyRootFilesystem"] is True
    (policy,) = (d for d in documents(DEPLOY / "rendered/leaf.yaml") if d["kind"] == "NetworkPolicy")
    ports = {p["port"] for rule in policy["spec"]["egress"] for p in rule["ports"]}
    assert ports == {53, 7422, 443}


def test_the_chart_makes_the_alert_rules_and_the_dashboard() -> None:
    made = {d["kind"]: d for d in documents(DEPLOY / "rendered/observed.yaml")}
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text("utf-8"))
    assert made["PrometheusRule"]["spec"] == rules
    assert made["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"
    shown = [d for d in documents(DEPLOY / "rendered/observed.yaml") if "llm-sidecar.json" in d.get("data", {})]
    assert [json.loads(d["data"]["llm-sidecar.json"])["uid"] for d in shown] == ["llm-sidecar"]


def test_only_pod_identity_opens_its_agents_address() -> None:
    def policies(name: str) -> list[Any]:
        return [d for d in documents(DEPLOY / f"rendered/{name}.yaml") if d["kind"] == "NetworkPolicy"]

    (policy,) = policies("pod-identity")
    reached = {(p["port"], str(rule.get("to", "any"))) for rule in policy["spec"]["egress"] for p in rule["ports"]}
    assert {(4222, "any"), (443, "any"), (80, "[{'ipBlock': {'cidr': '169.254.170.23/32'}}]")} <= reached
    (closed,) = policies("default")
    assert closed["spec"]["policyTypes"] == ["Ingress"]
    assert closed["spec"]["ingress"] == []


def test_irsa_is_an_annotation_and_no_token_of_the_cluster_is_mounted() -> None:
    (account,) = (d for d in documents(DEPLOY / "rendered/irsa.yaml") if d["kind"] == "ServiceAccount")
    assert list(account["metadata"]["annotations"]) == ["eks.amazonaws.com/role-arn"]
    for path in RENDERED:
        for found in documents(path):
            if found["kind"] == "ServiceAccount":
                assert found["automountServiceAccountToken"] is False
        assert pod_of(path)["automountServiceAccountToken"] is False


def configurations() -> list[Any]:
    texts = [
        pytest.param(found["data"]["sidecar.toml"], id=path.stem)
        for path in RENDERED
        for found in documents(path)
        if found["kind"] == "ConfigMap" and "sidecar.toml" in found["data"]
    ]
    component = DEPLOY / "kustomize/component/sidecar.toml"
    return [*texts, pytest.param(component.read_text("utf-8"), id="component")]


@pytest.mark.parametrize("text", configurations())
def test_shipped_configurations_are_valid(text: str) -> None:
    settings = Settings(**tomllib.loads(text))
    assert settings.nats.url


def test_the_compose_file_starts_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    for name, value in services["sidecar"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.bedrock.endpoint_url == "http://emulator:4599"
    assert settings.admin.host == "0.0.0.0"
    assert set(services["sidecar"]["depends_on"]) == {"nats", "emulator"}
    assert float(services["sidecar"]["stop_grace_period"].removesuffix("s")) > settings.jobs.drain_s


def test_the_image_runs_as_the_user_that_the_manifests_name() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    final = text.rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in final
    assert "--frozen" in text
    assert "/livez" in final
    assert not re.search(r"apt-get|gcc|pip install", final)
    assert final.rstrip().endswith('ENTRYPOINT ["sidecar"]\nCMD ["run"]')
