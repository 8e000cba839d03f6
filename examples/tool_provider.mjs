// A tool for models from JavaScript, with nothing but NATS's own client: `npm install` in this folder, start a
// sidecar by `./dev demo --serve`, then `node examples/tool_provider.mjs`. NATS_URL says where NATS is.
import { connect, headers } from "@nats-io/transport-node";

const TENANT = process.env.TENANT ?? "acme";
const REQUEST_MS = 5_000;
const HEARTBEAT_MS = 3_000;
const LONGEST_PAUSE_MS = 10_000;

const registration = {
  name: "reverse",
  version: "1.0.0",
  description: "Reverse a text, letter by letter.",
  input_schema: {
    type: "object",
    properties: {
      text: { type: "string", description: "What to reverse." },
      delay_ms: { type: "integer", minimum: 0, maximum: 600_000, description: "How long to take over it." },
    },
    required: ["text"],
    additionalProperties: false,
  },
  output_schema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
  timeout_s: 10,
  idempotent: true,
  ttl_s: 30,
};

async function reverse({ text, delay_ms = 0 }, signal) {
  await pause(delay_ms, signal);
  return { text: [...text].reverse().join("") };
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Error("nobody waits for this call any more"));
    });
  });
}

const servers = process.env.NATS_URL ?? "nats://127.0.0.1:4222";
const nc = await connect({ servers, inboxPrefix: `_INBOX_${TENANT}`, maxReconnectAttempts: -1 });
const tools = `llm.v1.tools.${TENANT}`;
const subject = `llm.v1.call.${TENANT}.${registration.name}.${registration.version.replaceAll(".", "_")}`;
const running = new Map();
const stopping = new AbortController();

function callId(message) {
  return ["Llm-Tenant", "Llm-Job-Id", "Llm-Tool-Use-Id", "Idempotency-Key"]
    .map((name) => message.headers?.get(name) ?? "")
    .join("|");
}

async function answer(message) {
  const id = callId(message);
  const cancelling = new AbortController();
  running.set(id, cancelling);
  // Each heartbeat gives the call another `timeout_s`.
  const progress = headers();
  progress.set("Llm-Tool-Progress", "in_progress");
  const beating = setInterval(() => message.respond("", { headers: progress }), HEARTBEAT_MS);
  try {
    message.respond(JSON.stringify(await reverse(message.json(), cancelling.signal)));
  } catch (error) {
    const failed = headers();
    failed.set("Nats-Service-Error-Code", "500");
    failed.set("Nats-Service-Error", `reverse failed with ${error.name}`);
    message.respond("", { headers: failed });
  } finally {
    clearInterval(beating);
    running.delete(id);
  }
}

async function register() {
  const reply = await nc.request(`${tools}.register`, JSON.stringify(registration), { timeout: REQUEST_MS });
  const refusal = reply.headers?.get("Nats-Service-Error");
  if (refusal) {
    throw new Error(`refused: ${refusal}`);
  }
}

// Listening first: from the moment of the registration on, calls may come.
const calls = nc.subscribe(subject, { queue: "tool", callback: (_, message) => void answer(message) });
nc.subscribe(`${subject}.cancel`, { callback: (_, message) => running.get(callId(message))?.abort() });
await nc.flush();

for (const name of ["SIGINT", "SIGTERM"]) {
  process.on(name, () => stopping.abort());
}

let retryMs = 500;
let isRegistered = false;
while (!stopping.signal.aborted) {
  let delayMs = (registration.ttl_s * 1000) / 3;
  try {
    await register();
    if (!isRegistered) {
      console.log(`registered, listening on ${subject}`);
    }
    isRegistered = true;
    retryMs = 500;
  } catch (error) {
    if (isRegistered || retryMs === 500) {
      console.error(`not registered, trying on: ${error.message}`);
    }
    isRegistered = false;
    delayMs = retryMs;
    retryMs = Math.min(retryMs * 2, LONGEST_PAUSE_MS);
  }
  await pause(delayMs, stopping.signal).catch(() => {});
}

// With more than one instance, only the last one to leave should deregister.
const { name, version } = registration;
await nc.request(`${tools}.deregister`, JSON.stringify({ name, version }), { timeout: REQUEST_MS }).catch(() => {});
await calls.drain();
while (running.size > 0) {
  await pause(50);
}
await nc.drain();
