"""The anchor: the same questions to the same emulator by bare boto3, in threads, in a process of its own.

    python -m benchmarks.anchor http://127.0.0.1:4566

Told by JSON lines: `{"do": "converse" | "converse_stream", "calls": 1000, "threads": 16, "prompt": "…"}`. CPU is
that of this process, all threads; the client is made and warm before the first command.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

MODEL_ID = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
MOST_THREADS = 64


def main(url: str) -> None:
    session = boto3.session.Session(aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="example")  # noqa: S106
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=MOST_THREADS, read_timeout=60)
    client = session.client("bedrock-runtime", endpoint_url=url, region_name="us-east-1", config=config)
    ask(client, "converse", "[[tokens=1]] hello")
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(client, json.loads(line))), flush=True)


def measure(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    """CPU and wall seconds for all calls of one command."""
    with ThreadPoolExecutor(int(order["threads"])) as pool:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        chars = sum(pool.map(lambda _: ask(client, order["do"], order["prompt"]), range(int(order["calls"]))))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return {"cpu_s": cpu_s, "elapsed_s": wall_s, "chars": chars}


def ask(client: Any, operation: str, prompt: str) -> int:
    """One call, its answer read to the end. Returns the characters of the answer."""
    asked = {
        "modelId": MODEL_ID,
        "messages": [{"role": "user", "content": [{"text": prompt}]}],
        "inferenceConfig": {"maxTokens": 512},
    }
    if operation == "converse":
        return len(client.converse(**asked)["output"]["message"]["content"][0]["text"])
    events = client.converse_stream(**asked)["stream"]
    return sum(
        len(event["contentBlockDelta"]["delta"]["text"]) for event in events if "contentBlockDelta" in event
    )


if __name__ == "__main__":
    main(sys.argv[1])
