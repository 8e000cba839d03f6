"""The protocol by hand: what somebody with nothing but the `nats` command can do. Skipped where there is none."""

import json
import shutil
import subprocess
import threading

import pytest

from tests.support.demo import PATIENCE_S, Demo, environment

pytestmark = [
    pytest.mark.nats,
    pytest.mark.skipif(shutil.which("nats") is None, reason="the nats command is not on the PATH"),
]

REQUEST = '{"messages": [{"role": "user", "content": "What is JetStream?"}], "stream": true}'


def nats(demo: Demo, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        ["nats", *arguments],
        env=environment(NATS_URL=demo.nats),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_question_in_plain_text_is_answered(demo: Demo) -> None:
    reply = nats(
        demo, "req", "--raw", "--reply-timeout", "60s", "llm.v1.ask.hand.interactive", "What is JetStream?"
    )
    result = json.loads(reply)
    assert result["state"] == "succeeded"
    assert result["output"]["text"].startswith("JetStream is")


def test_a_job_is_published_followed_read_and_replayed(demo: Demo) -> None:
    follower = subprocess.Popen(
        ["nats", "sub", "llm.v1.job.hand.job1.*"],
        env=environment(NATS_URL=demo.nats),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(PATIENCE_S, follower.kill)
    watchdog.start()
    try:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert "Subscribing" in follower.stderr.readline()
        subject = "llm.v1.request.hand.interactive"
        stored = nats(
            demo, "req", "--raw", "-H", "Llm-Job-Id:job1", "-H", "Nats-Msg-Id:hand:job1", subject, REQUEST
        )
        assert json.loads(stored)["stream"] == "LLM_REQ"
        followed = []
        while not followed or followed[-1]["type"] != "result":
            line = follower.stdout.readline()
            assert line, "nats sub ended"
            if line.startswith("{"):
                followed.append(json.loads(line))
    finally:
        watchdog.cancel()
        follower.kill()
        follower.communicate()
    state = json.loads(nats(demo, "kv", "get", "LLM_JOB", "hand.job1", "--raw"))
    assert state["result"] == followed[-1]["data"]
    assert json.loads(nats(demo, "req", "--raw", "llm.v1.get.hand.job1", ""))["state"] == "succeeded"
    replies = nats(demo, "req", "--raw", "--replies", "0", "--timeout", "2s", "llm.v1.replay.hand.job1", "")
    events = [json.loads(line) for line in replies.splitlines() if line.startswith("{")]
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert events[-len(followed) :] == followed
    jobs = json.loads(nats(demo, "req", "--raw", "llm.v1.jobs.hand", '{"limit": 5}'))
    assert "job1" in {job["job"] for job in jobs["jobs"]}


def test_a_job_is_cancelled(demo: Demo) -> None:
    request = '{"messages": [{"role": "user", "content": "the history of everything"}]}'
    nats(demo, "req", "-H", "Llm-Job-Id:long", "llm.v1.request.hand.batch", request)
    reply = json.loads(nats(demo, "req", "--raw", "llm.v1.cancel.hand.long", '{"reason": "enough"}'))
    assert reply["cancelled"]


def test_errors_name_the_field(demo: Demo) -> None:
    reply = nats(demo, "req", "--raw", "llm.v1.ask.hand.interactive", '{"messages": []}')
    assert json.loads(reply)["error"]["details"]["path"] == "messages"


def test_the_service_describes_itself(demo: Demo) -> None:
    assert "llm-sidecar" in nats(demo, "micro", "ls")
    assert "llm.v1.ask.*.*" in nats(demo, "micro", "info", "llm-sidecar")
    models = json.loads(nats(demo, "req", "--raw", "llm.v1.models.hand", ""))
    assert "nova-lite" in {model["alias"] for model in models["models"]}
