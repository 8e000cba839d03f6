"""The peer: LiteLLM's proxy, one worker, before the same emulator. Its environment is made once, in `.bench/`.

The release is pinned, and its dependencies are taken as of the day before the releases 1.82.7 and 1.82.8, which
carried malware: a later one is for whoever has looked into it. Only wheels are installed, so that nothing of it
runs before the proxy does, and the proxy sees no environment variable and no home of ours.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from benchmarks.figures import ASK_S, IN_FLIGHT, STREAM, UNARY
from benchmarks.load import MODEL
from benchmarks.measures import percentile
from benchmarks.processes import ROOT, Child, NotMeasured, python_module
from benchmarks.stack import READY_S, Base, wait_ready
from sidecar.adapters.nats.embedded import HOST, free_port

RELEASE = "1.82.6"
AS_OF = "2026-03-23T00:00:00Z"
FOLDER = ROOT / ".bench" / "litellm"
INSTALL_S = 600
START_S = 90.0
REPEATS = 2
KEY = "sk-bench"

_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0
      api_base: {url}
      aws_bedrock_runtime_endpoint: {url}
      aws_region_name: us-east-1
      aws_access_key_id: AKIAEXAMPLE
      aws_secret_access_key: example
general_settings:
  master_key: {key}
litellm_settings:
  telemetry: false
  num_retries: 0
"""


def measure(under: Base, *, note: Callable[[str], None]) -> Mapping[str, Mapping[str, float]]:
    """The peer's figures, by the key of ours. Raises NotMeasured when it cannot be installed or started."""
    install(note)
    note("measuring litellm ...")
    with proxy(under) as (peer, url):
        command = python_module("benchmarks.http_load", url, KEY)
        with Child(command, log=under.folder / "http_load.log", name="HTTP load generator") as load:
            load.read(timeout_s=READY_S)
            idle_mb = peer.rss_mb()
            unary_cpu, rate = closed(peer, load, prompt=UNARY, jobs=250)
            # Before the streams, whose aftermath keeps the proxy busy for seconds.
            p50, p99, at = latencies(load, rate)
            stream_cpu, _ = closed(peer, load, prompt=STREAM, jobs=30, in_flight=16, is_stream=True)
    label = f"litellm {RELEASE}"
    slow = f"{label} at {at:.0f}/s"
    return {
        "unary_cpu": {label: unary_cpu},
        "unary_rate": {label: rate},
        "stream_cpu": {label: stream_cpu},
        "latency_p50": {slow: p50},
        "latency_p99": {slow: p99},
        "idle_mb": {label: idle_mb},
    }


def install(note: Callable[[str], None]) -> None:
    """Make the environment unless it is there. Raises NotMeasured."""
    done = FOLDER / f".installed-{RELEASE}"
    if done.exists():
        return
    local = ROOT / ".uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(local) if local.exists() else None)
    if uv is None:
        raise NotMeasured("there is no uv to install litellm with: start the bench by ./dev bench")
    note(f"installing litellm {RELEASE} into {FOLDER.relative_to(ROOT)} ...")
    python = str(FOLDER / "bin" / "python")
    package = f"litellm[proxy]=={RELEASE}"
    steps = (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER)],
        [
            uv, "pip", "install", "--quiet", "--python", python,
            "--only-binary", ":all:", "--exclude-newer", AS_OF, package,
        ],
    )  # fmt: skip
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.CalledProcessError as e:
            raise NotMeasured(f"litellm could not be installed: {e.stderr.strip()[-800:]}") from e
        except subprocess.TimeoutExpired as e:
            raise NotMeasured(f"litellm could not be installed within {INSTALL_S} s") from e
    done.touch()


@contextmanager
def proxy(under: Base) -> Iterator[tuple[Child, str]]:
    """The running proxy and the URL of its chat completions."""
    port = free_port()
    config = under.folder / "litellm.yaml"
    config.write_text(_CONFIG.format(model=MODEL, url=under.emulator_url, key=KEY), "utf-8")
    home = under.folder / "home"
    home.mkdir()
    clean = {
        "PATH": os.defpath,
        "HOME": str(home),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": HOST,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    program = [str(FOLDER / "bin" / "litellm"), "--config", str(config), "--host", HOST, "--port", str(port)]
    log = under.folder / "litellm.log"
    with Child(program, log=log, environment=clean, is_clean=True, name="litellm", cwd=home) as peer:
        wait_ready(peer, port, path="/health/liveliness", timeout_s=START_S)
        yield peer, f"http://{HOST}:{port}/v1/chat/completions"


def closed(
    peer: Child,
    load: Child,
    *,
    prompt: str,
    jobs: int,
    in_flight: int = IN_FLIGHT,
    is_stream: bool = False,
) -> tuple[float, float]:
    """CPU milliseconds a call and calls a second, in a closed loop."""
    order = {"do": "closed", "jobs": jobs, "in_flight": in_flight, "prompt": prompt, "timeout_s": ASK_S}
    order["stream"] = is_stream
    load.ask({**order, "jobs": in_flight}, timeout_s=ASK_S + 5)
    cpu, rate = list[float](), list[float]()
    for _ in range(REPEATS):
        before = peer.cpu_s()
        done = load.ask(order, timeout_s=ASK_S + 5)
        cpu.append((peer.cpu_s() - before) / jobs * 1000)
        rate.append(jobs / done["elapsed_s"])
    return statistics.median(cpu), statistics.median(rate)


def latencies(load: Child, capacity: float) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds, at 300 a second or, where the peer cannot do that, at half of what it can."""
    rate = min(300.0, capacity / 2)
    order = {"do": "open", "jobs": round(rate * 5), "rate": rate, "prompt": UNARY, "timeout_s": ASK_S}
    done = load.ask(order, timeout_s=ASK_S + 5)
    taken_ms = [seconds * 1000 for seconds in done["latencies_s"]]
    return percentile(taken_ms, 0.5), percentile(taken_ms, 0.99), rate
