"""The commands as a user runs them, against a live demo: what is printed where, and how they exit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.demo import ROOT, Demo, command, end, environment, started

pytestmark = pytest.mark.nats

QUESTION = "What is JetStream?"


def at(demo: Demo, tenant: str) -> dict[str, str]:
    return {"NATS_URL": demo.nats, "SIDECAR_TENANT": tenant}


def test_ask_prints_the_answer_on_stdout_and_the_rest_on_stderr(demo: Demo) -> None:
    done = command("ask", *QUESTION.split(), "--model", "nova-lite", env=at(demo, "ask"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("JetStream is the persistence layer")
    assert done.stdout.endswith("safe.\n")
    assert "running on nova-lite" in done.stderr
    assert "succeeded · nova-lite" in done.stderr


def test_ask_reads_stdin_and_gives_json(demo: Demo) -> None:
    done = command("--json", "ask", "-q", "--job-id", "json-1", env=at(demo, "ask"), stdin=QUESTION)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["job"], result["tenant"], result["state"]) == ("json-1", "ask", "succeeded")
    assert result["output"]["text"].startswith("JetStream is")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ask", "x", "--model", "no-such-model"), 1, "unknown_model"),
        (("ask", "[[tokens=4000 tps=20]] x", "--timeout", "0.5"), 4, "timeout"),
        (("ask",), 2, "there is no question"),
        (("ask", "x", "--temperature", "7"), 2, "temperature"),
        (("get", "nobody-knows"), 1, "nobody-knows"),
        (("get", "not a name"), 2, "job id"),
        (("nonsense",), 2, "nonsense"),
        (("jobs", "--state", "odd"), 2, "odd"),
        (("ask", "x", "--context", "none-such"), 2, "none-such"),
        (("ask", "x", "-s", "nats://127.0.0.1:9"), 3, "127.0.0.1:9"),
    ],
)
def test_a_users_error_is_one_message_and_an_exit_code(
    demo: Demo, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = command(*arguments, env=at(demo, "errors"))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_where_json_was_asked_for(demo: Demo) -> None:
    done = command("get", "nobody-knows", "--json", env=at(demo, "errors"))
    assert json.loads(done.stderr)["error"]["code"] == "not_found"
    assert done.stdout == ""


def test_submit_watch_get_jobs_follow_one_job(demo: Demo) -> None:
    env = at(demo, "life")
    request = json.dumps({"messages": [{"role": "user", "content": QUESTION}], "stream": True})
    done = command("submit", "--job-id", "life-1", "-c", "interactive", env=env, stdin=request)
    assert (done.returncode, done.stdout) == (0, "life-1\n"), done.stderr
    watched = command("watch", "life-1", "--json", env=env)
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert events[-1]["type"] == "result"
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    again = command("watch", "life-1", env=env)
    assert again.stdout == "".join(e["data"].get("text") or "" for e in events if e["type"] == "delta") + "\n"
    got = command("get", "life-1", "--json", env=env)
    assert json.loads(got.stdout)["result"]["state"] == "succeeded"
    assert "succeeded" in command("get", "life-1", env=env).stdout
    told = command("explain", "life-1", env=env).stdout
    assert "calls of models:" in told
    assert "money:" in told
    assert json.loads(command("explain", "life-1", "--json", env=env).stdout)["billed_calls"] == 1
    listed = command("jobs", "--json", env=env)
    assert [json.loads(line)["job"] for line in listed.stdout.splitlines()] == ["life-1"]
    assert "life-1" in command("jobs", env=env).stdout
    once_more = command("submit", "--job-id", "life-1", "-c", "interactive", env=env, stdin=request)
    assert once_more.returncode == 0
    assert len(command("jobs", "--json", env=env).stdout.splitlines()) == 1


def test_many_requests_are_submitted_and_watched(demo: Demo) -> None:
    lines = [{"messages": [{"role": "user", "content": f"Summarize page {i}"}]} for i in range(5)]
    lines[3]["model"] = "no-such-model"
    done = command(
        "submit", "-", "--watch", "--job-id", "many", env=at(demo, "many"),
        stdin="\n".join(json.dumps(line) for line in lines),
    )  # fmt: skip
    assert done.returncode == 1
    rows = dict(line.split("\t")[:2] for line in done.stdout.splitlines())
    assert rows == {f"many-{i}": "rejected" if i == 4 else "succeeded" for i in range(1, 6)}


def test_a_bad_line_is_named_and_nothing_is_submitted(demo: Demo) -> None:
    stdin = '{"messages":[{"role":"user","content":"a"}]}\n{"messages":[{"role":"user","contents":"b"}]}\n'
    done = command("submit", env=at(demo, "bad"), stdin=stdin)
    assert done.returncode == 2
    assert "line 2: messages[0].contents" in done.stderr
    assert command("jobs", "--json", env=at(demo, "bad")).stdout == ""


def test_cancel_ends_a_running_job(demo: Demo) -> None:
    env = at(demo, "cancel")
    request = json.dumps({"messages": [{"role": "user", "content": "the history of everything"}]})
    command("submit", "--job-id", "long", env=env, stdin=request)
    done = command("cancel", "long", env=env)
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "long")
    watched = command("watch", "long", env=env)
    assert watched.returncode == 1
    assert "cancelled" in watched.stderr
    assert command("cancel", "long", env=env).returncode == 0


def test_an_interrupted_question_is_cancelled(demo: Demo) -> None:
    env = at(demo, "interrupt")
    arguments = ["ask", "--job-id", "stopped", "Tell me the history of everything"]
    with started(arguments, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert end(process, signal.SIGINT) == 130
    watched = command("watch", "stopped", "--json", env=env)
    assert json.loads(watched.stdout.splitlines()[-1])["data"]["state"] == "cancelled"


def test_models_are_listed(demo: Demo) -> None:
    done = command("models", "--json", env=at(demo, "models"))
    models = {json.loads(line)["alias"]: json.loads(line) for line in done.stdout.splitlines()}
    assert models["nova-lite"]["price_input_usd_per_mtok"] > 0
    assert all(model["unusable"] is None for model in models.values())
    everything = command("models", "--all", "--json", env=at(demo, "models"))
    assert len(everything.stdout.splitlines()) >= len(models)
    assert "nova-lite" in command("models", env=at(demo, "models")).stdout


def test_doctor_finds_everything_in_order(demo: Demo) -> None:
    done = command(
        "doctor", "--json", "-s", demo.nats, "--set", f"bedrock.endpoint_url={demo.bedrock}", "--call", "nova-lite"
    )
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, findings
    levels = {finding["check"]: finding["level"] for finding in findings}
    assert levels["NATS connection"] == levels["JetStream"] == levels["stream LLM_REQ"] == "ok"
    assert levels["sidecars"] == levels["AWS credentials"] == levels["Bedrock endpoint"] == "ok"
    assert levels["model nova-lite in us-east-1"] == "ok"


def test_doctor_says_what_to_do_where_nothing_is_there() -> None:
    done = command("doctor", "--no-aws", "-s", "nats://127.0.0.1:9", "--connect-timeout", "0.5")
    assert done.returncode == 3
    assert "FAIL  NATS connection" in done.stdout
    assert "→" in done.stdout


def test_a_closed_pipe_is_no_error(demo: Demo) -> None:
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m sidecar models --all --json | head -1 >/dev/null"],
        env=environment(**at(demo, "pipe")),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in piped.stderr
    assert "Exception" not in piped.stderr


def test_contexts_of_the_nats_cli_are_honoured(demo: Demo, tmp_path: Path) -> None:
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (contexts / "here.json").write_text(json.dumps({"url": demo.nats}))
    env = {"XDG_CONFIG_HOME": str(tmp_path), "SIDECAR_TENANT": "contexts"}
    assert command("jobs", "--json", "--context", "here", env=env).returncode == 0
    assert (
        command("--context", "here", "jobs", "--json", env={**env, "NATS_URL": "nats://127.0.0.1:9"}).returncode
        == 3
    )
    (contexts.parent / "context.txt").write_text("here")
    assert command("jobs", "--json", env=env).returncode == 0


def test_schemas_are_listed_printed_written_and_checked(tmp_path: Path) -> None:
    names = command("schema").stdout.split()
    assert {"request", "event", "result"} <= set(names)
    assert json.loads(command("schema", "request").stdout)["title"]
    assert command("schema", "nonsense").returncode == 2
    assert command("schema", "--check", "--root", str(tmp_path)).returncode == 1
    assert "schemas/json/request.v1.json" in command("schema", "--write", "--root", str(tmp_path)).stdout
    assert command("schema", "--check", "--root", str(tmp_path)).returncode == 0
    edited = tmp_path / "schemas/examples/event.json"
    edited.write_text(edited.read_text() + "\n")
    assert command("schema", "--check", "--root", str(tmp_path)).stdout == "schemas/examples/event.json differs\n"
    assert command("schema", "--check", "--write").returncode == 2


def test_a_configuration_is_shown_without_secrets_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('[nats]\nurl = "nats://u:hunter2@h:4222"\n[tenants.acme]\nweight = 3\n')
    shown = command("config", "--config", str(file), "--json")
    assert json.loads(shown.stdout)["tenants"]["acme"]["weight"] == 3
    assert "hunter2" not in shown.stdout
    assert "tenants.acme.weight = 3.0" in command("config", "--changed", "--config", str(file)).stdout
    assert command("config", "--check", str(file)).returncode == 0
    file.write_text("[tenants.acme]\nwait = 3\n")
    refused = command("config", "--check", str(file))
    assert (refused.returncode, "tenants.acme.wait" in refused.stderr) == (2, True)
