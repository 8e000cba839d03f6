"""The protocol with nothing but nats-py: what a client in any language does.

Subscribe to the job's events, publish the request, wait for JetStream's acknowledgement, read until the result.
`schemas/README.md` describes every message; the client library adds replay after reconnects, ordering and types.
"""

import asyncio
import json
import os
import uuid

import nats

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
TENANT = "acme"


async def main() -> None:
    nc = await nats.connect(NATS_URL)
    job = uuid.uuid4().hex
    events = await nc.subscribe(f"llm.v1.job.{TENANT}.{job}.*")

    request = {"messages": [{"role": "user", "content": "What is JetStream?"}], "stream": True}
    ack = await nc.request(
        f"llm.v1.request.{TENANT}.interactive",
        json.dumps(request).encode(),
        timeout=10,
        # The id makes a retry safe; the message id lets the server drop the second copy.
        headers={"Llm-Job-Id": job, "Nats-Msg-Id": f"{TENANT}:{job}"},
    )
    print("stored as", json.loads(ack.data)["seq"], flush=True)

    while True:
        event = json.loads((await events.next_msg(timeout=60)).data)
        if event["type"] == "delta":
            print(event["data"].get("text", ""), end="", flush=True)
        if event["type"] == "result":
            print(f"\n{event['data']['state']}, {event['data']['usage']['output_tokens']} tokens")
            break

    state = await nc.request(f"llm.v1.get.{TENANT}.{job}", b"", timeout=10)
    print("the state document says", json.loads(state.data)["state"])

    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    await nc.publish(f"llm.v1.replay.{TENANT}.{job}", b'{"attempt": 0, "n": 0}', reply=inbox)
    count = 0
    while not (await replies.next_msg(timeout=10)).headers:
        count += 1
    print(f"replayed {count} events")
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
