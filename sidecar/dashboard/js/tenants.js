// All tenants in one table of which only the rows in sight exist: ten or ten thousand cost the same.

import { h, setAttribute, setText, show } from "./dom.js";
import { ago, count, milliseconds, percent, plural, usd } from "./format.js";
import { fillShareBar, shareBar } from "./parts.js";

const ROW_PX = 38;
const SPARE_ROWS = 6;
const FRESH_MS = 1_500;
// A bar's end is beyond the largest share, so that marks further right have room; larger ones stand at the end.
const MARGIN = 1.5;
const LEAST = 0.001;
const COLUMNS = [
  ["name", "Tenant", (row) => row.name],
  ["interactive", "Interactive queued", (row) => row.byClass.interactive ?? 0],
  ["standard", "Standard queued", (row) => row.byClass.standard ?? 0],
  ["batch", "Batch queued", (row) => row.byClass.batch ?? 0],
  ["running", "Running", (row) => row.running],
  ["wait", "Wait p95", (row) => row.wait ?? -1],
  ["share", "Share: got and entitled", (row) => row.share],
  ["tokens", "Tokens/min", (row) => row.tokens],
  ["spend", "Spent today", (row) => row.spend],
];

export class Tenants {
  constructor(root) {
    this.by = "share";
    this.isUp = false;
    this.rows = [];
    this.places = null;
    this.search = h("input", { type: "search", placeholder: "Find a tenant", "aria-label": "Find a tenant", spellcheck: "false", oninput: () => this.#top() });
    this.summary = h("p", { class: "hint" });
    this.heads = new Map(COLUMNS.map(([name, label]) => [name, this.#heading(name, label)]));
    this.head = h(
      "div",
      { class: "t-row t-head", role: "row", "aria-rowindex": "1" },
      ...this.heads.values(),
    );
    this.body = h("div", { class: "t-body", role: "rowgroup" });
    this.viewport = h(
      "div",
      { class: "t-view", tabindex: "0", role: "table", "aria-label": "Tenants", onscroll: () => this.#soon() },
      h("div", { role: "rowgroup", class: "t-headgroup" }, this.head),
      this.body,
    );
    this.empty = h("p", { class: "empty", hidden: true });
    root.append(h("div", { class: "bar-top" }, h("h1", {}, "Tenants"), this.search), this.summary, this.viewport, this.empty);
    this.state = null;
  }

  #heading(name, label) {
    const button = h("button", { type: "button", onclick: () => this.#sortBy(name) }, label);
    return h("span", { role: "columnheader", class: name === "name" ? "" : "num", "data-column": name }, button);
  }

  #sortBy(name) {
    this.isUp = this.by === name ? !this.isUp : name === "name";
    this.by = name;
    this.#top();
  }

  #top() {
    this.viewport.scrollTop = 0;
    this.places = null;
    this.again();
  }

  #soon() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.#draw();
    });
  }

  again() {
    if (this.state !== null) this.render(this.state);
  }

  render(state) {
    this.state = state;
    const wanted = this.search.value.trim().toLowerCase();
    const all = [...state.books.tenants.values()];
    this.rows = wanted ? all.filter((row) => row.name.toLowerCase().includes(wanted)) : all;
    this.most = MARGIN * all.reduce((most, row) => Math.max(most, row.share), LEAST);
    const isHeld = this.places !== null && this.viewport.matches(":hover, :focus-within");
    this.rows.sort(isHeld ? this.#byPlace() : this.#byColumn());
    this.places = new Map(this.rows.map((row, i) => [row.name, i]));
    for (const [name, head] of this.heads) {
      setAttribute(head, "aria-sort", name === this.by ? (this.isUp ? "ascending" : "descending") : "none");
    }
    this.#sum(state, all.length, wanted, isHeld);
    this.#draw();
  }

  #byColumn() {
    const value = COLUMNS.find(([name]) => name === this.by)[2];
    const sign = this.isUp ? 1 : -1;
    return (a, b) => sign * order(value(a), value(b)) || order(a.name, b.name);
  }

  /** As they stand: under the pointer, or with the focus among them, rows do not change places. */
  #byPlace() {
    const placeOf = (row) => this.places.get(row.name) ?? Infinity;
    return (a, b) => order(placeOf(a), placeOf(b)) || order(a.name, b.name);
  }

  #sum({ books, now }, known, wanted, isHeld) {
    const stats = books.current(now);
    const others = stats?.other_tenants?.tenants ?? 0;
    const total = stats ? Math.max(known, stats.tenants.length + others) : known;
    const words = [wanted ? `${count(this.rows.length)} of ${plural(total, "tenant")}` : plural(total, "tenant")];
    if (others > 0) words.push(`the ${stats.tenants.length} busiest each second, the others in turn every ${Math.ceil((stats.tenants.length + others) / 100)} s`);
    if (isHeld) words.push("rows keep their places while you are among them");
    if (total > known) words.push(`${count(total - known)} still to come`);
    setText(this.summary, `${words.join(" · ")}.`);
    show(this.empty, !this.rows.length);
    setText(this.empty, wanted ? "No tenant has such a name." : "No tenant has had work since the scheduler started.");
  }

  #draw() {
    this.body.style.height = `${this.rows.length * ROW_PX}px`;
    const height = this.viewport.clientHeight || 600;
    const first = Math.max(0, Math.floor(this.viewport.scrollTop / ROW_PX) - SPARE_ROWS);
    const last = Math.min(this.rows.length, first + Math.ceil(height / ROW_PX) + 2 * SPARE_ROWS);
    setAttribute(this.viewport, "aria-rowcount", this.rows.length + 1);
    const rows = this.body.children;
    while (rows.length > last - first) this.body.lastElementChild.remove();
    while (rows.length < last - first) this.body.append(tenantRow());
    for (let i = first; i < last; i += 1) {
      const element = rows[i - first];
      const top = `${i * ROW_PX}px`;
      if (element.style.top !== top) element.style.top = top;
      setAttribute(element, "aria-rowindex", i + 2);
      fillTenant(element, this.rows[i], this.most, this.state.now);
    }
  }
}

function order(a, b) {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

function tenantRow() {
  const cell = (kind, ...children) => h("span", { role: "cell", class: kind }, ...children);
  return h(
    "div",
    { class: "t-row", role: "row" },
    cell("t-name", h("a", {})),
    ...["num", "num", "num", "num", "num"].map((kind) => cell(kind)),
    cell("t-share", shareBar(), h("span", { class: "num" }), h("span", { class: "num faint" })),
    cell("num"),
    cell("num"),
  );
}

function fillTenant(element, row, most, now) {
  const [name, interactive, standard, batch, running, wait, share, tokens, spend] = element.children;
  setAttribute(element, "title", now - row.at > FRESH_MS ? `as of ${ago(row.at, now)}` : "");
  setText(name.firstChild, row.name);
  setAttribute(name.firstChild, "href", `#/jobs?of=${encodeURIComponent(row.name)}`);
  [interactive, standard, batch].forEach((cell, i) => queued(cell, row.byClass[["interactive", "standard", "batch"][i]]));
  queued(running, row.running);
  setText(wait, row.wait === null ? "–" : milliseconds(row.wait));
  fillShareBar(share.firstChild, row, most);
  setText(share.children[1], percent(row.share));
  setText(share.children[2], row.fair ? `of ${percent(row.fair)}` : "");
  setText(tokens, count(row.tokens));
  setText(spend, row.budget === null ? usd(row.spend) : `${usd(row.spend)} of ${usd(row.budget)}`);
  setAttribute(spend, "data-tone", row.budget !== null && row.spend > 0.9 * row.budget ? "bad" : "");
}

function queued(cell, value) {
  setText(cell, count(value ?? 0));
  setAttribute(cell, "data-zero", value ? "no" : "yes");
}
