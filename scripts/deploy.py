"""`./dev deploy-check`: the chart, what is rendered from it, the kustomize component, the Dockerfile.

`--write` makes the files under deploy/ that come from the chart anew. Needs the dependency group `deploy`; nothing
here needs a cluster or a container engine.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/nats-llm-sidecar"
EXAMPLE_APP = ROOT / "deploy/helm/example-app"
COMPONENT = ROOT / "deploy/kustomize/component"
EXAMPLE = ROOT / "deploy/kustomize/example"
RENDERED = ROOT / "deploy/rendered"
NATS = ROOT / "deploy/nats"
# A chart can only read files of its own.
COPIED = {
    ROOT / "deploy/prometheus/alerts.yaml": CHART / "files/alerts.yaml",
    ROOT / "deploy/grafana/llm-sidecar.json": CHART / "files/llm-sidecar.json",
}
NAME = "nats-llm-sidecar"
NAMESPACE = "llm"
# The first release that runs native sidecars without a feature gate, and the newest that is known here.
KUBERNETES = ("1.29", "1.34")

_DIGEST = "sha256:" + "0" * 64
_ROLE = "arn:aws:iam::123456789012:role/llm-sidecar"
_CREDENTIALS = {
    "existingSecret": "nats",
    "credsKey": "nats.creds",
    "userKey": "user",
    "passwordKey": "password",
    "tokenKey": "token",
    "caKey": "ca.crt",
}
_PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "nats"}}}
_GUARDED = {
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {"egress": True},
    "aws": {"podIdentity": True},
}
_LEAF = {
    "leafNode": {
        "enabled": True,
        "remotes": ["tls://nats.example:7422"],
        "credentials": {"existingSecret": "leaf", "key": "nats.creds"},
    }
}
RENDERED_NAMES = ("default", "pod-identity", "irsa", "leaf", "observed")
MATRIX: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "pod-identity": {**_GUARDED, "image": {"digest": _DIGEST}},
    "irsa": {"aws": {"irsaRoleArn": _ROLE}, "credentials": _CREDENTIALS, "serviceAccount": {"name": "llm"}},
    "restricted": {
        "networkPolicy": {
            "nats": {"port": 4223, "to": [_PEER]},
            "httpsTo": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "adminFrom": [_PEER],
        },
        "adminToken": {"existingSecret": "admin"},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}, "runbooks": "https://wiki.example/llm"},
        "dashboard": {"enabled": True},
    },
    "own": {
        "existingConfigMap": "mine",
        "serviceAccount": {"create": False},
        "aws": {"existingSecret": "aws"},
        "drainSeconds": 300,
        "adminPort": 9000,
        "extraEnv": [{"name": "SIDECAR_LOG__LEVEL", "value": "debug"}],
        "extraEnvFrom": [{"configMapRef": {"name": "more"}}],
        "extraVolumes": [{"name": "extra", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"e": "f"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
    },
    "leaf": {**_LEAF, "networkPolicy": {"egress": True}},
    "observed": {
        "podMonitor": {"enabled": True},
        "alerts": {"enabled": True},
        "dashboard": {"enabled": True},
        "networkPolicy": {"adminFrom": [_PEER]},
    },
    "open": {"networkPolicy": {"enabled": False}, "podMonitor": {"enabled": True}},
    "off": {"deployment": {"enabled": False}},
}
REFUSED: Mapping[str, Mapping[str, Any]] = {
    "a misspelt key": {"replcas": 2},
    "no memory limit": {"resources": {"limits": {"memory": None}}},
    "a digest that is none": {"image": {"digest": "sha256:12"}},
    "a role that is none": {"aws": {"irsaRoleArn": "role"}},
    "no margin over the drain": {"drainMarginSeconds": 0},
    "a leaf node that leads nowhere": {"leafNode": {"enabled": True}},
    "a monitor that the NetworkPolicy keeps out": {"podMonitor": {"enabled": True}},
    "a password in a leaf node's address": {"leafNode": {"enabled": True, "remotes": ["tls://u:p@nats:7422"]}},
}
# A custom resource: its schema is the operator's and not among those of Kubernetes.
_FOREIGN = ("PodMonitor", "PrometheusRule")
_MADE = f"# Made from deploy/helm/{NAME} by ./dev deploy-check --write\n"


def render(values: Mapping[str, Any], *, chart: Path = CHART, release: str = NAME) -> list[dict[str, Any]]:
    """The manifests of a release. Raises HelmError for values that the schema refuses."""
    return list(_documents(render_text(values, chart=chart, release=release)))


def render_text(values: Mapping[str, Any], *, chart: Path = CHART, release: str = NAME) -> str:
    """The manifests of a release as YAML, in a stable order."""
    with helm_python.Chart.load(str(chart)) as loaded:
        files = loaded.render(dict(values), name=release, namespace=NAMESPACE)
    kept = [text.strip() for name, text in sorted(files.items()) if name.endswith(".yaml") and text.strip()]
    return "".join(f"---\n{text}\n" for text in kept)


def example_app(values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What another chart makes with the helper; `values` are the helper's."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "example-app"
        shutil.copytree(EXAMPLE_APP, copy)
        shutil.copytree(CHART, copy / "charts" / NAME)
        return render({NAME: dict(values or {})}, chart=copy, release="example-app")


def patch(kind: str) -> str:
    """The kustomize component's patch: the example application's pod without the application."""
    pod = next(found for found in example_app() if found["kind"] == "Deployment")["spec"]["template"]["spec"]
    spec = {
        "terminationGracePeriodSeconds": pod["terminationGracePeriodSeconds"],
        "initContainers": pod["initContainers"],
        "volumes": json.loads(json.dumps(pod["volumes"]).replace("example-app-" + NAME, NAME)),
    }
    # The target of the patch is chosen by kustomization.yaml; a name must be there all the same.
    document = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": spec}},
    }
    return _MADE + yaml.safe_dump(document, sort_keys=False)


def made_files() -> dict[Path, str]:
    """Every file that comes from the chart or the generator, with its text."""
    from sidecar.cli.nats_config import render as nats_config

    files = {copy: original.read_text("utf-8") for original, copy in COPIED.items()}
    files |= {RENDERED / f"{name}.yaml": _MADE + render_text(MATRIX[name]) for name in RENDERED_NAMES}
    files[COMPONENT / "sidecar-patch.yaml"] = patch("Deployment")
    files[COMPONENT / "sidecar-patch-statefulset.yaml"] = patch("StatefulSet")
    files[NATS / "accounts.conf"] = nats_config(("acme", "globex"), mode="accounts") + "\n"
    files[NATS / "users.conf"] = nats_config(("acme", "globex"), mode="users") + "\n"
    return files


def write() -> None:
    for original, copy in COPIED.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(original.read_text("utf-8"), "utf-8")
    for path, text in made_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        print(path.relative_to(ROOT))


def kustomize() -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of the example. Raises CalledProcessError."""
    return list(_documents(_run("kubectl", "kustomize", str(EXAMPLE))))


def invalid(documents: list[dict[str, Any]]) -> list[str]:
    """What Kubernetes would not know or not take, in every release of `KUBERNETES`."""
    found = []
    for document in (d for d in documents if d["kind"] not in _FOREIGN):
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as e:
                found.append(f"{document['kind']} {document['metadata']['name']}, {version}: {e.message}")
    return found


def check_lint() -> list[str]:
    result = helm_python.lint(str(CHART), strict=True)
    return [*map(str, result["errors"]), *(str(m) for m in result["messages"] if m["severity"] > 1)]


def check_matrix() -> list[str]:
    return [f"{name}: {text}" for name, values in MATRIX.items() for text in invalid(render(values))]


def check_refusals() -> list[str]:
    accepted = []
    for name, values in REFUSED.items():
        try:
            render(values)
        except (helm_python.HelmValuesError, helm_python.HelmRenderError):
            continue
        accepted.append(f"{name} was taken")
    return accepted


def check_native_sidecars() -> list[str]:
    documents = [*example_app(), *example_app(_LEAF), *kustomize()]
    workloads = [d for d in documents if d["kind"] in ("Deployment", "StatefulSet")]
    lacking = [
        f"{d['metadata']['name']} has no native sidecar"
        for d in workloads
        if d["metadata"]["name"] != "without" and not _native_sidecar(d)
    ]
    extra = [d["metadata"]["name"] for d in workloads if d["metadata"]["name"] == "without" and _native_sidecar(d)]
    return [*invalid(documents), *lacking, *(f"{name} got a sidecar unasked" for name in extra)]


def check_drift() -> list[str]:
    return [
        f"{path.relative_to(ROOT)} differs: ./dev deploy-check --write makes it anew"
        for path, text in made_files().items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]


def check_dockerfile() -> list[str]:
    done = subprocess.run(
        [_tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


CHECKS: Mapping[str, Callable[[], list[str]]] = {
    "helm lint": check_lint,
    "helm template, kubernetes-validate": check_matrix,
    "values that must be refused": check_refusals,
    "native sidecar by helper and kustomize": check_native_sidecars,
    "rendered files": check_drift,
    "hadolint": check_dockerfile,
}


def _native_sidecar(workload: dict[str, Any]) -> bool:
    containers = workload["spec"]["template"]["spec"].get("initContainers", [])
    return any(c["name"] == "llm-sidecar" and c.get("restartPolicy") == "Always" for c in containers)


def _documents(text: str) -> Iterator[dict[str, Any]]:
    for document in yaml.safe_load_all(text):
        if document:
            yield document


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else name


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def main(arguments: list[str]) -> int:
    """Exit code 0 when everything holds, 1 otherwise."""
    if "--write" in arguments:
        write()
        return 0
    is_ok = True
    for name, check in CHECKS.items():
        started = time.monotonic()
        found = check()
        print(f"{'FAILED' if found else 'ok    '} {name} ({time.monotonic() - started:.1f} s)")
        for line in found:
            print(f"       {line}")
        is_ok = is_ok and not found
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
