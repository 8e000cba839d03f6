// The way to NATS: subscriptions and requests that only look. Nothing here can change anything.

import { credsAuthenticator, tokenAuthenticator, usernamePasswordAuthenticator, wsconnect } from "../vendor/nats.js";

const REQUEST_MS = 10_000;
const REPLAY_MS = 60_000;
const CONNECT_MS = 8_000;
const ADDRESS = /^wss?:\/\/[^\s@]+$/i;

/** An error that is meant to be read: what happened, and what to do. */
export class Problem extends Error {
  constructor(message, kind = "other") {
    super(message);
    this.kind = kind;
  }
}

/**
 * `way`: {url, prefix, tenant, auth}; `auth`: {kind: "none" | "user" | "token" | "creds", user, secret}.
 * `onState(state, detail)` is told of "connected", "reconnecting", "closed" and "denied". Raises Problem.
 */
export async function connect(way, onState) {
  const servers = way.url.split(",").map((url) => url.trim()).filter(Boolean);
  if (!servers.length || !servers.every((url) => ADDRESS.test(url))) {
    throw new Problem("The address must look like ws://host:port or wss://host:port.", "address");
  }
  const inbox = way.tenant ? `_INBOX_${way.tenant}.dashboard` : "_INBOX.dashboard";
  try {
    const connection = await wsconnect({
      servers,
      name: "llm-sidecar dashboard",
      inboxPrefix: inbox,
      authenticator: authenticator(way.auth),
      timeout: CONNECT_MS,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 1_000,
      ignoreClusterUpdates: true,
    });
    return new Bus(connection, way, onState);
  } catch (error) {
    throw problemOf(error);
  }
}

function authenticator(auth) {
  if (auth.kind === "user") return usernamePasswordAuthenticator(auth.user, auth.secret);
  if (auth.kind === "token") return tokenAuthenticator(auth.secret);
  if (auth.kind === "creds") return credsAuthenticator(new TextEncoder().encode(auth.secret));
  return undefined;
}

function problemOf(error) {
  const said = `${error?.name ?? ""} ${error?.message ?? error}`;
  if (/authorization|authentication|credentials|nkey|jwt/i.test(said)) {
    return new Problem("The server did not take these credentials.", "auth");
  }
  return new Problem(
    "No NATS server answers there. Is its `websocket` section on, and may pages of this address connect to it?",
    "unreachable",
  );
}

export class Bus {
  #connection;
  #onState;

  constructor(connection, way, onState) {
    this.#connection = connection;
    this.#onState = onState;
    this.root = `${way.prefix}.v1`;
    this.depth = this.root.split(".").length;
    this.#watch();
  }

  get server() {
    return this.#connection.getServer();
  }

  async #watch() {
    this.#connection.closed().then((error) => this.#onState("closed", error?.message ?? ""));
    for await (const status of this.#connection.status()) {
      if (status.type === "reconnect") this.#onState("connected");
      if (status.type === "disconnect" || status.type === "reconnecting") this.#onState("reconnecting");
    }
  }

  /** Call `hear(subject tokens after the root, message)`; `onDenied` where the server forbids it. */
  subscribe(tail, hear, onDenied = () => {}) {
    const subscription = this.#connection.subscribe(`${this.root}.${tail}`, {
      callback: (error, message) => {
        if (error) onDenied(error);
        else heard(hear, message.subject.split(".").slice(this.depth), message);
      },
    });
    return () => subscription.unsubscribe();
  }

  /** The reply's JSON. Raises Problem with the service's own words. */
  async ask(tail, body = {}) {
    let reply;
    try {
      reply = await this.#connection.request(`${this.root}.${tail}`, JSON.stringify(body), { timeout: REQUEST_MS });
    } catch (error) {
      throw askProblem(error);
    }
    const failure = reply.headers?.get("Nats-Service-Error");
    if (failure) throw new Problem(failure, reply.headers.get("Nats-Service-Error-Code") === "404" ? "missing" : "refused");
    return reply.json();
  }

  /** Stored events after a place, in order, each given to `hear`. Raises Problem. */
  async replay(tenant, job, after, hear) {
    await this.askMany(`replay.${tenant}.${job}`, after, hear);
  }

  /** The parts of a long answer, in order, each given to `hear`. Raises Problem. */
  async askMany(tail, body, hear) {
    let isWhole = false;
    try {
      const replies = await this.#connection.requestMany(`${this.root}.${tail}`, JSON.stringify(body), {
        strategy: "sentinel",
        maxWait: REPLAY_MS,
      });
      for await (const reply of replies) {
        const failure = reply.headers?.get("Nats-Service-Error");
        if (failure) throw new Problem(failure, "missing");
        if (reply.headers?.code === 503) throw new Problem("No sidecar answers on this bus.", "nobody");
        isWhole = reply.headers?.get("Llm-End") === "true";
        if (isWhole) break;
        heard(() => hear(reply.json()), tail.split("."), reply);
      }
      if (!isWhole) throw new Problem("The answer did not come whole in time.", "timeout");
    } catch (error) {
      throw error instanceof Problem ? error : askProblem(error);
    }
  }

  async close() {
    await this.#connection.close();
  }
}

/** A message that is not as the protocol has it must not end the subscription. */
function heard(hear, tokens, message) {
  try {
    hear(tokens, message);
  } catch (error) {
    console.warn(`a message on …${tokens.join(".")} was left out: ${error.name}`);
  }
}

function askProblem(error) {
  const said = `${error?.name ?? ""} ${error?.message ?? ""} ${error?.cause?.name ?? ""} ${error?.cause?.message ?? ""}`;
  if (/responders/i.test(said)) return new Problem("No sidecar answers on this bus.", "nobody");
  if (/permission/i.test(said)) return new Problem("These credentials may not ask for that.", "denied");
  if (/timeout/i.test(said)) return new Problem("No answer came in time.", "timeout");
  return new Problem("The connection failed while an answer was under way.", "other");
}
