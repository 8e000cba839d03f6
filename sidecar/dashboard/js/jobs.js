// Jobs heard of since the page was opened, running ones first; any other by its name.

import { ENDED } from "./books.js";
import { fillRows, h, setAttribute, setText, show } from "./dom.js";
import { ago, count, milliseconds, plural, rate, usd } from "./format.js";
import { badge, fillBadge, jobLink } from "./state.js";

const PAGE = 50;
const MOST_FOLLOWED = 24;
const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const RUNS = new Set(["running", "waiting", "retrying"]);
const HEADINGS = ["State", "Tenant / job", "Class, model, error", "Tokens", "Cost", "Time"];
const FILTERS = [
  ["all", "All", () => true],
  ["live", "Running", (row) => RUNS.has(row.state)],
  ["queued", "Queued", (row) => row.state === "queued"],
  ["bad", "Not succeeded", (row) => ENDED.has(row.state) && row.state !== "succeeded"],
];

export class Jobs {
  /** `ask(tenant)` lists a tenant's jobs into the books; `follow(keys)` listens to these jobs' text. */
  constructor(root, { ask, follow }) {
    this.ask = ask;
    this.follow = follow;
    this.filter = "all";
    this.page = 0;
    this.state = null;
    this.search = h("input", { type: "search", placeholder: "tenant, or tenant/job", "aria-label": "Find by tenant, or by tenant/job", spellcheck: "false", autocapitalize: "off", oninput: () => this.#first() });
    const form = h("form", { class: "find", onsubmit: (event) => this.#go(event) }, this.search, h("button", { type: "submit" }, "Look up"));
    this.buttons = FILTERS.map(([name, label]) => h("button", { type: "button", class: "chip", "data-filter": name, onclick: () => this.#choose(name) }, label));
    this.isPaused = false;
    this.pause = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.#pause() }, "Pause");
    this.note = h("p", { class: "hint" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.list = h("div", { class: "rows" });
    this.empty = h("p", { class: "empty", hidden: true });
    this.pager = h("p", { class: "pager" });
    this.newer = h("button", { type: "button", class: "quiet", onclick: () => this.#turn(-1) }, "Newer");
    this.older = h("button", { type: "button", class: "quiet", onclick: () => this.#turn(1) }, "Older");
    this.where = h("span", { class: "faint" });
    this.pager.append(this.newer, this.where, this.older);
    root.append(
      h("div", { class: "bar-top" }, h("h1", {}, "Jobs"), h("div", { class: "chips", role: "group", "aria-label": "Which jobs" }, ...this.buttons, this.pause), form),
      this.note,
      this.problem,
      h("section", { class: "card" }, h("div", { class: "line job-line heads" }, ...HEADINGS.map((name) => h("span", {}, name))), this.list, this.empty, this.pager),
    );
  }

  /** Show this tenant's jobs, and ask the sidecar for those that were before. */
  async of(tenant) {
    this.search.value = tenant;
    this.#first();
    if (tenant) await this.#list(tenant);
  }

  leave() {
    this.follow([]);
  }

  #choose(name) {
    this.filter = name;
    this.#first();
  }

  /** Hold the list still, to read it or to choose from it. */
  #pause() {
    this.isPaused = !this.isPaused;
    setAttribute(this.pause, "aria-pressed", this.isPaused);
    this.again();
  }

  #resume() {
    this.isPaused = false;
    setAttribute(this.pause, "aria-pressed", "false");
  }

  #first() {
    this.#resume();
    this.page = 0;
    this.again();
  }

  #turn(by) {
    this.#resume();
    this.page = Math.max(0, this.page + by);
    this.again();
  }

  again() {
    if (this.state !== null) this.render(this.state);
  }

  async #go(event) {
    event.preventDefault();
    const [tenant, job, ...rest] = this.search.value.trim().split("/");
    const isGood = NAME.test(tenant) && (job === undefined || NAME.test(job)) && !rest.length;
    show(this.problem, !isGood);
    if (!isGood) {
      setText(this.problem, "Write a tenant's name, or tenant/job: letters, digits, _ and -.");
      return;
    }
    if (job) location.hash = jobLink(tenant, job);
    else await this.#list(tenant);
  }

  async #list(tenant) {
    show(this.problem, false);
    try {
      await this.ask(tenant);
    } catch (error) {
      show(this.problem, true);
      setText(this.problem, `The jobs of ${tenant} cannot be listed: ${error.message}`);
    }
    this.again();
  }

  render(state) {
    const isHeld = this.isPaused && this.state !== null;
    this.state = state;
    if (isHeld) return;
    const { books, now } = state;
    const wanted = this.search.value.trim().toLowerCase();
    const isWanted = FILTERS.find(([name]) => name === this.filter)[2];
    const rows = [...books.jobs.values()].filter((row) => isWanted(row) && row.key.toLowerCase().includes(wanted)).reverse();
    rows.sort((a, b) => RUNS.has(b.state) - RUNS.has(a.state) || Boolean(a.ended) - Boolean(b.ended) || b.updated - a.updated);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.min(this.page, pages - 1);
    const shown = rows.slice(this.page * PAGE, (this.page + 1) * PAGE);
    fillRows(this.list, shown, jobRow, (element, row) => fillJob(element, row, books, now));
    for (const button of this.buttons) setAttribute(button, "aria-pressed", button.dataset.filter === this.filter);
    setText(this.note, aboutList(books));
    show(this.empty, !rows.length);
    setText(this.empty, books.jobs.size ? "No job seen here fits. “Look up” asks the sidecar." : "No job has been heard of yet. New ones appear here by themselves; a tenant's earlier jobs by its name.");
    show(this.pager, pages > 1);
    setText(this.where, `page ${this.page + 1} of ${pages}`);
    this.newer.disabled = this.page === 0;
    this.older.disabled = this.page >= pages - 1;
    this.follow(shown.filter((row) => row.state === "running").slice(0, MOST_FOLLOWED).map((row) => row.key));
  }
}

function aboutList(books) {
  const skipped = books.skipped ? ` ${plural(books.skipped, "event")} came too fast to be listed; the counts have them.` : "";
  return `${plural(books.jobsSeen, "job")} seen by this page${books.jobsSeen > books.jobs.size ? `, the latest ${books.jobs.size} are kept` : ""}.${skipped}`;
}

export function jobRow() {
  return h("a", { class: "line job-line" }, badge(), h("strong", {}), h("span", {}), h("span", { class: "num" }), h("span", { class: "num" }), h("span", { class: "faint" }));
}

export function fillJob(element, row, books, now) {
  const [state, name, model, first, second, when] = element.children;
  setAttribute(element, "href", jobLink(row.tenant, row.job));
  fillBadge(state, row.state || "unknown", row.state === "waiting" ? row.waitsFor : "");
  setText(name, `${row.tenant} / ${row.job}`);
  setAttribute(name, "title", name.textContent);
  setText(model, [row.class, row.model, row.error].filter(Boolean).join(" · "));
  setAttribute(model, "title", model.textContent);
  const speed = books.speedOf(row, now);
  if (row.ended) {
    setText(first, row.tokens ? `${count(row.tokens)} tokens` : "");
    setText(second, typeof row.cost === "number" ? usd(row.cost) : "");
    setText(when, `${row.totalMs ? `took ${milliseconds(row.totalMs)}, ` : ""}${ago(row.ended, now)}`);
  } else {
    setText(first, speed === null ? "" : `${rate(speed)} chars/s`);
    setText(second, row.characters ? `${count(row.characters)} chars` : "");
    setText(when, row.started ? `for ${milliseconds(Math.max(0, now - row.started))}` : ago(row.updated, now));
  }
}
