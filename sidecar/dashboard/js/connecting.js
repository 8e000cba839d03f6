// The form that says where to connect and as whom; what the folder's server offers fills it in.

import { byId, setText, show } from "./dom.js";
import { recall, remember } from "./memory.js";

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const PREFIX = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/;
const KEPT = ["url", "prefix", "tenant"];

export class Connecting {
  /** `connect(way)` is awaited; what it raises is shown. */
  constructor(connect) {
    this.connect = connect;
    this.form = byId("connect-form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.form.addEventListener("change", (event) => {
      if (event.target.name === "kind") this.#choose(event.target.value);
      if (event.target.id === "f-file") this.#read(event.target);
    });
  }

  /** Fill the form in, and connect where the folder's server names an address. */
  async start() {
    const key = takeKey();
    const offered = await fetched("config.json", {}, (reply) => reply.json());
    for (const name of KEPT) byId(`f-${name}`).value = offered?.[name] || recall(name) || byId(`f-${name}`).value;
    byId("more").open = Boolean(byId("f-tenant").value) || byId("f-prefix").value !== "llm";
    const credentials = key ? await fetched("credentials", { "Sidecar-Key": key }, (reply) => reply.text()) : null;
    if (credentials) {
      this.#choose("creds");
      byId("f-creds").value = credentials;
    } else if (offered?.has_credentials) {
      this.say("The credentials are given only for the whole address that the command printed, with its key.");
      return;
    }
    if (offered?.websocket) byId("f-url").value = offered.websocket;
    if (offered?.websocket) await this.#submit();
  }

  say(problem) {
    show(byId("connect-problem"), Boolean(problem));
    setText(byId("connect-problem"), problem);
  }

  #choose(kind) {
    this.form.elements.kind.value = kind;
    for (const part of this.form.querySelectorAll("[data-kind]")) show(part, part.dataset.kind === kind);
  }

  async #read(input) {
    const [file] = input.files;
    if (file) byId("f-creds").value = await file.text();
    input.value = "";
  }

  async #submit() {
    const way = this.#way();
    const problem = problemOf(way);
    this.say(problem);
    if (problem) return;
    const button = byId("connect-button");
    button.disabled = true;
    setText(button, "Connecting …");
    try {
      await this.connect(way);
      for (const name of KEPT) remember(name, way[name]);
    } catch (error) {
      if (error.kind === "auth" && way.auth.kind === "none") this.#choose("user");
      this.say(error.kind === "auth" && way.auth.kind === "none" ? "The server wants credentials." : error.message);
    } finally {
      button.disabled = false;
      setText(button, "Connect");
    }
  }

  #way() {
    const kind = this.form.elements.kind.value;
    const secret = { user: "f-password", token: "f-token", creds: "f-creds" }[kind];
    const [url, prefix, tenant] = KEPT.map((name) => byId(`f-${name}`).value.trim());
    return { url, prefix, tenant, auth: { kind, user: byId("f-user").value, secret: secret ? byId(secret).value : "" } };
  }
}

function problemOf({ url, prefix, tenant, auth }) {
  if (!url) return "Say where NATS listens for WebSocket.";
  if (url.includes("@")) return "Leave user and password out of the address: there are fields for them.";
  if (!PREFIX.test(prefix)) return "The prefix is one or more names with dots between them.";
  if (tenant && !NAME.test(tenant)) return "A tenant's name is 1 to 64 of A-Z a-z 0-9 _ -.";
  if (auth.kind !== "none" && !auth.secret) return "Give the credentials, or choose None.";
  return "";
}

/** The key of the printed address; taken out of the address bar and the history at once. */
function takeKey() {
  const key = /^#key=([A-Za-z0-9_-]+)$/.exec(location.hash)?.[1] ?? "";
  if (key) history.replaceState(null, "", location.pathname + location.search);
  return key;
}

async function fetched(path, headers, read) {
  try {
    const reply = await fetch(path, { headers, cache: "no-store" });
    return reply.ok ? await read(reply) : null;
  } catch {
    return null;
  }
}
