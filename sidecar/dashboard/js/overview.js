// The first view: the state of everything at a glance.

import { sparkline } from "./charts.js";
import { fillRows, h, setAttribute, setPart, setText, show } from "./dom.js";
import { count, percent, plural, rate, seconds, usd } from "./format.js";
import { fillModels, modelRow } from "./models.js";
import { fillJob, jobRow } from "./jobs.js";
import { card, fillShareBar, modelsOf, shareBar } from "./parts.js";
import { badge, fillBadge } from "./state.js";

const MOST_SHARES = 8;
// Small shares are drawn larger: the bar's end is a little beyond the largest.
const HALF = 0.5;
const MARGIN = 1.15;
const MOST_JOBS = 8;
const MOST_MODELS = 8;
const CLASSES = ["interactive", "standard", "batch"];

export class Overview {
  constructor(root) {
    this.tiles = [
      tile("Queued", "queued", count),
      tile("Running", "running", count),
      tile("Finished per second", "finished", rate),
      tile("Tokens per minute", "tokens", count),
      tile("Spent today", "spend", usd),
      tile("Refused per minute", "refused", count),
    ];
    this.shares = h("ol", { class: "bars" });
    this.sharesNote = h("p", { class: "hint" });
    this.classes = h("div", { class: "rows" });
    this.models = h("div", { class: "rows" });
    this.modelsNote = h("p", { class: "hint" });
    this.classesNote = h("p", { class: "hint" }, "Told by the replica that schedules.");
    this.replicas = h("div", { class: "rows" });
    this.replicasNote = h("p", { class: "hint" }, "None has been heard.");
    this.jobs = h("div", { class: "rows" });
    this.jobsNote = h("p", { class: "hint" }, "No job has been heard of since this page was opened.");
    this.statistics = [
      card("Shares of the last minute", "#/tenants", legend(), this.shares, this.sharesNote),
      card("Queues by class", "", this.classes, this.classesNote),
    ];
    this.replicaCard = card("Replicas", "", this.replicas, this.replicasNote);
    root.append(
      h("div", { class: "tiles" }, ...this.tiles.map((each) => each.element)),
      h(
        "div",
        { class: "columns" },
        h("div", {}, this.statistics[0], card("Latest jobs", "#/jobs", this.jobs, this.jobsNote)),
        h("div", {}, this.statistics[1], this.replicaCard, card("Models", "#/models", this.models, this.modelsNote)),
      ),
    );
  }

  render({ books, totals, now, tenant, catalogue }) {
    const stats = books.current(now);
    for (const each of this.tiles) each.draw(books.history, totals, stats === null);
    for (const element of [...this.statistics, this.replicaCard]) show(element, !tenant);
    this.#shares(books, stats);
    fillRows(this.classes, stats?.classes ?? [], classRow, fillClass);
    this.#models(stats ? modelsOf(stats) : catalogue);
    const replicas = [...books.replicas.values()].map(({ stats: each }) => each);
    replicas.sort((a, b) => a.replica.localeCompare(b.replica));
    fillRows(this.replicas, replicas, replicaRow, fillReplica);
    show(this.replicasNote, !replicas.length);
    show(this.classesNote, !stats?.classes?.length);
    const jobs = [...books.jobs.values()].reverse().slice(0, MOST_JOBS);
    fillRows(this.jobs, jobs, jobRow, (row, job) => fillJob(row, job, books, now));
    show(this.jobsNote, !jobs.length);
  }

  /** Those in use, and those in trouble. */
  #models(all) {
    const busy = all.filter((model) => model.calls !== 0 || model.health !== "healthy").slice(0, MOST_MODELS);
    fillRows(this.models, busy, modelRow, fillModels);
    const more = all.length - busy.length;
    setText(this.modelsNote, all.length ? (more ? `${plural(more, "more model")}, not in use.` : "") : "No model is known yet.");
  }

  #shares(books, stats) {
    const busy = [...books.tenants.values()].filter((row) => row.share > 0 || row.fair > 0);
    busy.sort((a, b) => b.share - a.share || b.fair - a.fair || a.name.localeCompare(b.name));
    const shown = busy.slice(0, MOST_SHARES);
    const most = shown.reduce((largest, row) => Math.max(largest, row.share, row.fair), 0);
    const full = most > HALF ? 1 : most * MARGIN;
    fillRows(this.shares, shown, shareRow, (row, tenant) => fillShare(row, tenant, full));
    const more = busy.length - MOST_SHARES;
    const idle = books.tenants.size - busy.length;
    const words = [];
    if (more > 0) words.push(`${plural(more, "more tenant")} with work.`);
    if (idle > 0) words.push(`${plural(idle, "tenant")} without.`);
    if (!busy.length) words.push("No tenant had work within the last minute.");
    else if (stats?.queued === 0) words.push("Nothing is queued: everybody gets what it asks for, and the marks do not bind.");
    else words.push("Who asks for less than its due leaves the rest to others.");
    setText(this.sharesNote, words.join(" "));
  }
}

function tile(label, name, format) {
  const value = h("span", { class: "value" }, "–");
  const aside = h("span", { class: "aside" });
  const chart = sparkline(label);
  const element = h("div", { class: "tile", "data-name": name }, h("span", { class: "label" }, label), value, aside, chart.element);
  return {
    element,
    draw(history, totals, isAlone) {
      const now = totals[name];
      show(element, now !== null);
      if (now === null) return;
      setText(value, format(now));
      setText(aside, asideOf(name, totals, isAlone));
      setAttribute(element, "data-tone", name === "refused" && now > 0 ? "warn" : "");
      chart.draw(history.of(name), format);
    },
  };
}

function asideOf(name, totals, isAlone) {
  if (name === "running" && totals.slots) return `of ${plural(totals.slots, "slot")}`;
  if (name === "finished" && totals.failed > 0) return `${rate(totals.failed)} not succeeded`;
  if (name === "refused") return "by models";
  if (name === "spend" && isAlone) return "since this page was opened";
  return "";
}

function legend() {
  return h("p", { class: "legend", "aria-hidden": "true" }, h("i", { class: "key-got" }), "got", h("i", { class: "key-fair" }), "entitled by weight");
}

function shareRow() {
  return h("li", {}, h("a", {}), shareBar(), h("span", { class: "num" }), h("span", { class: "num faint" }));
}

function fillShare(row, tenant, full) {
  const [name, bar, got, fair] = row.children;
  setText(name, tenant.name);
  setAttribute(name, "href", `#/jobs?of=${encodeURIComponent(tenant.name)}`);
  setAttribute(name, "title", tenant.name);
  fillShareBar(bar, tenant, full);
  setText(got, percent(tenant.share));
  setText(fair, tenant.fair ? `of ${percent(tenant.fair)}` : "");
}

function classRow() {
  const parts = [h("strong", {}), h("span", { class: "num" }), h("span", { class: "num" }), shareBar(), h("span", { class: "num" })];
  return h("div", { class: "line class-line" }, ...parts);
}

function fillClass(row, each) {
  const [name, queued, running, bar, share] = row.children;
  setText(name, CLASSES.includes(each.class) ? each.class : String(each.class));
  setText(queued, `${count(each.queued)} queued`);
  setText(running, `${count(each.running)} running`);
  fillShareBar(bar, { share: each.share, fair: each.fair_share });
  setText(share, percent(each.share));
}

function replicaRow() {
  const parts = [h("strong", {}), badge(), h("div", { class: "bar fill", role: "img" }, h("i", { class: "got" })), h("span", { class: "num" }), h("span", { class: "faint" })];
  return h("div", { class: "line replica-line" }, ...parts);
}

function fillReplica(row, each) {
  const [name, state, bar, slots, more] = row.children;
  setText(name, each.replica);
  fillBadge(state, each.state);
  setPart(bar, "--got", each.slots ? each.slots_used / each.slots : 0);
  setAttribute(bar, "aria-label", `${each.slots_used} of ${each.slots} slots used`);
  setText(slots, `${count(each.slots_used)} / ${count(each.slots)} slots`);
  setText(more, `${each.is_scheduler ? "schedules · " : ""}${each.version} · up ${seconds(each.uptime_s)}`);
}
