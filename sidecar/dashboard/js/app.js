// The page: connect, listen, and once a second draw what is looked at.

import { Books } from "./books.js";
import { connect } from "./bus.js";
import { Connecting } from "./connecting.js";
import { byId, setAttribute, setText, show } from "./dom.js";
import { JobView } from "./job.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Overview } from "./overview.js";
import { Spend } from "./spend.js";
import { Tenants } from "./tenants.js";
import { followTheme } from "./theme.js";

const TICK_MS = 1_000;
const SILENCE_MS = 6_000;
const MOST_EVENTS_A_SECOND = 400;
const LISTED = 200;
const MOST_LISTED_TENANTS = 10;
const MODELS_EVERY_MS = 30_000;
const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const VIEWS = ["connect", "overview", "tenants", "jobs", "models", "spend", "job"];
const TITLE = "LLM sidecar";
const TITLES = { tenants: "Tenants", jobs: "Jobs", models: "Models", spend: "Spend", job: "Job" };

class App {
  constructor() {
    this.books = new Books();
    this.catalogue = [];
    this.bus = null;
    this.way = null;
    this.denied = "";
    this.view = "connect";
    this.connecting = new Connecting((way) => this.#connect(way));
    this.views = {
      overview: new Overview(byId("view-overview")),
      tenants: new Tenants(byId("view-tenants")),
      jobs: new Jobs(byId("view-jobs"), { ask: (tenant) => this.#list(tenant), follow: (keys) => this.#follow(keys) }),
      models: new Models(byId("view-models")),
      spend: new Spend(byId("view-spend"), (by) => this.#spend(by)),
    };
    this.job = new JobView(byId("view-job"));
    this.followed = new Map();
    byId("leave").addEventListener("click", () => this.#leave(""));
    addEventListener("hashchange", () => this.#route());
  }

  async start() {
    followTheme(byId("theme"));
    this.#route();
    setInterval(() => this.#tick(), TICK_MS);
    await this.connecting.start();
  }

  async #connect(way) {
    this.bus = await connect(way, (state, detail) => this.#onState(state, detail));
    this.way = way;
    this.books = new Books();
    this.catalogue = [];
    this.denied = "";
    this.hasListedAll = false;
    this.connectedAt = Date.now();
    this.events = { second: 0, count: 0 };
    this.#onState("connected");
    this.#listen();
    this.#route();
  }

  #listen() {
    const whose = this.way.tenant || "*";
    if (!this.way.tenant) {
      this.bus.subscribe("sys.stats", (_, message) => this.#hearStats(message), () => {
        this.denied = "These credentials may not read the statistics. A tenant's own: name the tenant when you connect.";
      });
    }
    for (const kind of ["status", "result"]) {
      this.bus.subscribe(`job.${whose}.*.${kind}`, ([, tenant, job], message) => this.#hearEvent(tenant, job, kind, message));
    }
    if (this.way.tenant) this.#list(this.way.tenant).catch(() => {});
    else this.#listAll().catch(() => {});
  }

  /** The latest jobs of all tenants, also those that ran before the page was opened. */
  async #listAll() {
    const page = await this.bus.ask("admin.jobs", { limit: LISTED });
    this.books.hearList(page.jobs);
    this.hasListedAll = true;
  }

  #hearStats(message) {
    const stats = message.json();
    const isFirst = this.books.scheduler === null;
    if (this.books.hearStats(stats, Date.now()) && isFirst) this.#listBusy();
  }

  /** Jobs that ran before the page was opened, of the busiest tenants. */
  #listBusy() {
    if (this.hasListedAll) return;
    const busy = [...this.books.tenants.values()].filter((row) => row.running > 0 && NAME.test(row.name));
    for (const { name } of busy.slice(0, MOST_LISTED_TENANTS)) this.#list(name).catch(() => {});
  }

  async #list(tenant) {
    const page = await this.bus.ask(`jobs.${tenant}`, { limit: 100 });
    this.books.hearList(page.jobs);
  }

  #hearEvent(tenant, job, kind, message) {
    const now = Date.now();
    const second = Math.floor(now / 1000);
    if (this.events.second !== second) this.events = { second, count: 0 };
    this.events.count += 1;
    const event = this.events.count <= MOST_EVENTS_A_SECOND ? message.json() : null;
    this.books.hearEvent(tenant, job, kind, event, now);
  }

  /** Listen to the text of these running jobs, and no longer to others. */
  #follow(keys) {
    const wanted = new Set(this.bus === null ? [] : keys);
    for (const [key, stop] of this.followed) {
      if (!wanted.has(key)) {
        stop();
        this.followed.delete(key);
      }
    }
    for (const key of wanted) if (!this.followed.has(key)) this.followed.set(key, this.#hearText(key));
  }

  #hearText(key) {
    return this.bus.subscribe(`job.${key.replace("/", ".")}.delta`, (_, message) => {
      const data = message.json().data ?? {};
      this.books.hearText(key, String(data.text ?? data.reasoning ?? "").length, Date.now());
    });
  }

  /** Rows of the last 30 days, by day and `by`. */
  async #spend(by) {
    const rows = [];
    const page = { rows, asOf: null, incomplete: [] };
    const { tenant } = this.way;
    await this.bus.askMany(tenant ? `spend.${tenant}` : "admin.spend", { by: ["day", by] }, (part) => {
      rows.push(...part.rows);
      page.asOf = part.as_of;
      page.incomplete = part.incomplete_days ?? [];
    });
    return page;
  }

  async #askModels(now) {
    if (!this.way.tenant || now - (this.modelsAt ?? 0) < MODELS_EVERY_MS) return;
    this.modelsAt = now;
    try {
      this.catalogue = (await this.bus.ask(`models.${this.way.tenant}`)).models ?? [];
    } catch {
      this.catalogue = [];
    }
  }

  #tick() {
    if (this.bus === null) return;
    const now = Date.now();
    this.totals = this.books.tick(now, { isAwaited: !this.way.tenant && this.books.scheduler === null });
    this.#askModels(now);
    this.#warn(now);
    if (!document.hidden) this.#draw(now);
  }

  #draw(now) {
    const { books, catalogue } = this;
    const tenant = this.way?.tenant ?? "";
    this.views[this.view]?.render({ books, totals: this.totals ?? books.tick(now, { isAwaited: true }), now, tenant, catalogue });
  }

  #warn(now) {
    let text = this.denied;
    const isSilent = now - Math.max(this.books.heardAt, this.connectedAt) > SILENCE_MS;
    if (!text && !this.way.tenant && this.state === "connected" && isSilent) {
      text = `Connected, but no sidecar speaks on ${this.way.prefix}.v1.sys.stats. Is one running, and is the prefix right?`;
    } else if (!text && this.books.heardAt && !this.way.tenant && this.books.current(now) === null) {
      text = "No replica schedules at the moment: queues and shares are those of a moment ago.";
    }
    if (!text) text = heldText(this.books);
    if (this.state === "reconnecting") text = "The connection was lost. What you see is from before; trying again every second.";
    show(byId("banner"), Boolean(text));
    setText(byId("banner"), text);
  }

  #onState(state, detail = "") {
    const was = this.state;
    this.state = state;
    if (state === "closed") return this.bus === null ? undefined : this.#leave(detail || "The server ended the connection.");
    setAttribute(byId("link"), "data-state", state);
    setText(byId("link-text"), state === "connected" ? `Connected to ${this.bus.server}` : "Reconnecting …");
    if (state === "connected" && was === "reconnecting") this.job.resume();
    return undefined;
  }

  #leave(problem) {
    const bus = this.bus;
    this.bus = null;
    this.followed.clear();
    this.job.leave();
    bus?.close();
    setAttribute(byId("link"), "data-state", "off");
    setText(byId("link-text"), "Not connected");
    show(byId("banner"), false);
    this.#route();
    this.connecting.say(problem);
  }

  #route() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const [name, tenant, job] = path.split("/").map(decoded);
    const isJob = name === "job" && NAME.test(tenant ?? "") && NAME.test(job ?? "");
    const wanted = isJob ? "job" : ["tenants", "jobs", "models", "spend"].includes(name) ? name : "overview";
    this.#show(this.bus === null ? "connect" : wanted);
    if (this.bus === null) return;
    if (isJob) this.job.open(this.bus, tenant, job);
    else this.job.leave();
    const of = decoded(new URLSearchParams(query ?? "").get("of") ?? "");
    if (wanted === "jobs" && NAME.test(of)) this.views.jobs.of(of);
    this.#draw(Date.now());
  }

  #show(view) {
    if (this.view === "jobs" && view !== "jobs") this.views.jobs.leave();
    const isNew = this.view !== view;
    this.view = view;
    for (const name of VIEWS) show(byId(`view-${name}`), name === view);
    show(byId("nav"), this.bus !== null);
    show(byId("leave"), this.bus !== null);
    for (const link of byId("nav").children) {
      const isThis = link.dataset.view === view || (view === "job" && link.dataset.view === "jobs");
      if (isThis) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      if (link.dataset.view === "tenants") show(link, !this.way?.tenant);
    }
    document.title = TITLES[view] ? `${TITLES[view]} · ${TITLE}` : TITLE;
    if (isNew && view !== "connect") scrollTo(0, 0);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** Why no calls can be made, in words; empty while they can. */
function heldText(books) {
  const all = [...books.replicas.values()].flatMap(({ stats }) => stats.holds ?? []);
  const causes = new Map(all.map((hold) => [hold.cause, `${hold.reason}. ${hold.remedy}`]));
  const held = causes.size ? [`Jobs are held: ${[...causes.values()].join("; ")}`] : [];
  const paused = (books.scheduler?.stats.pauses ?? []).map(pausedText);
  return [...held, ...(paused.length ? [`Paused by an operator: ${paused.join("; ")}`] : [])].join(" ");
}

function pausedText({ tenant, class: jobClass, model, reason }) {
  const named = Object.entries({ tenant, class: jobClass, model }).filter(([, value]) => value);
  return `${named.map(([name, value]) => `${name} ${value}`).join(", ") || "everything"}${reason ? ` (${reason})` : ""}`;
}

await new App().start();
