// What was spent: bars by day, told apart by tenant or by model, and the sums below them.

import { fillRows, h, setAttribute, setText, show, svg } from "./dom.js";
import { count, usd } from "./format.js";
import { card, table } from "./parts.js";

const EVERY_MS = 30_000;
// While there is nothing to show.
const SOON_MS = 3_000;
const DAYS = 30;
const DAY_MS = 86_400_000;
// So many names have a colour of their own; the others share the last.
const NAMED = 6;
const OTHERS = "others";
const WIDTH = 600;
const HEIGHT = 160;
const GAP = 3;

export class Spend {
  /** `ask(by)` gives `{rows, asOf, incomplete}`, rows by day and what `by` says. */
  constructor(root, ask) {
    this.ask = ask;
    this.by = "model";
    this.askedAt = 0;
    this.page = { rows: [], asOf: null, incomplete: [] };
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.choice = h("select", { id: "spend-by", onchange: () => this.#choose(this.choice.value) },
      h("option", { value: "model" }, "by model"), h("option", { value: "tenant" }, "by tenant"));
    this.choiceRow = h("div", { class: "bar-top" }, h("label", { for: "spend-by" }, "Told apart"), this.choice);
    this.chart = svg("svg", { class: "stack", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.legend = h("ul", { class: "legend" });
    this.note = h("p", { class: "hint" });
    this.rows = h("tbody", {});
    const sums = table(["Name", "#Cost", "#Of it estimated", "#Calls", "#Tokens in", "#Tokens out"], this.rows);
    root.append(
      h("h1", {}, "Spend"), this.problem, this.choiceRow,
      card(`The last ${DAYS} days`, "", this.chart, this.legend, this.note), card("Sums", "", sums),
    );
  }

  #choose(by) {
    this.by = by;
    this.askedAt = 0;
    this.#refresh(Date.now());
  }

  render({ now, tenant }) {
    show(this.choice.lastElementChild, !tenant);
    if (tenant && this.by === "tenant") this.by = this.choice.value = "model";
    this.#refresh(now);
  }

  async #refresh(now) {
    if (now - this.askedAt < (this.page.rows.length ? EVERY_MS : SOON_MS)) return;
    this.askedAt = now;
    try {
      this.page = await this.ask(this.by);
      setText(this.problem, "");
    } catch (error) {
      setText(this.problem, error.message);
    }
    show(this.problem, this.problem.textContent !== "");
    this.#draw(Date.now());
  }

  #draw(now) {
    const { names, totals } = ranked(this.page.rows, this.by);
    const days = daysUpTo(now, DAYS);
    const bars = stacked(this.page.rows, { by: this.by, names, days });
    const most = Math.max(...bars.map((bar) => bar.usd), 0);
    fillRows(this.chart, bars.flatMap((bar) => bar.parts), () => svg("rect", {}, svg("title")), (rect, part) => fillPart(rect, part, most));
    setAttribute(this.chart, "aria-label", `US dollars a day, at most ${usd(most)}; today ${usd(bars.at(-1)?.usd ?? 0)}`);
    fillRows(this.legend, names, () => h("li", {}, h("i", {}), h("span", {})), (item, name, i) => {
      setAttribute(item.firstChild, "class", `c${i}`);
      setText(item.lastChild, name);
    });
    const missing = this.page.incomplete;
    const upTo = this.page.asOf ? `Jobs that ended up to ${this.page.asOf}, days of UTC.` : "Nothing was summed up yet.";
    setText(this.note, missing.length ? `${upTo} Jobs may be missing: ${missing.join(", ")}.` : upTo);
    fillRows(this.rows, totals, sumRow, fillSum);
  }
}

/** The names with most money, and the sums of each; what has no colour of its own is one of them. */
export function ranked(rows, by) {
  const sums = new Map();
  for (const row of rows) {
    const name = String(row[by] ?? "") || "unknown";
    const sum = sums.get(name) ?? { name, usd: 0, estimated: 0, calls: 0, input: 0, output: 0 };
    sum.usd += row.cost_usd ?? 0;
    sum.estimated += row.estimated_usd ?? 0;
    sum.calls += row.calls ?? 0;
    sum.input += row.input_tokens ?? 0;
    sum.output += row.output_tokens ?? 0;
    sums.set(name, sum);
  }
  const totals = [...sums.values()].sort((a, b) => b.usd - a.usd || a.name.localeCompare(b.name));
  const names = totals.slice(0, NAMED).map((sum) => sum.name);
  return { totals, names: totals.length > NAMED ? [...names, OTHERS] : names };
}

/** Days of UTC as texts, oldest first. */
export function daysUpTo(now, length) {
  return Array.from({ length }, (_, i) => new Date(now - (length - 1 - i) * DAY_MS).toISOString().slice(0, 10));
}

/** A bar a day: its parts in the order of `names`, each with what lies below it. */
export function stacked(rows, { by, names, days }) {
  const places = new Map(names.map((name, i) => [name, i]));
  const bars = days.map((day, at) => ({ usd: 0, parts: names.map((name, i) => ({ day, at, name, i, usd: 0, below: 0, of: days.length })) }));
  const at = new Map(days.map((day, i) => [day, i]));
  for (const row of rows) {
    const bar = bars[at.get(row.day) ?? -1];
    const part = bar?.parts[places.get(String(row[by] ?? "") || "unknown") ?? names.length - 1];
    if (part) part.usd += row.cost_usd ?? 0;
  }
  for (const bar of bars) {
    for (const part of bar.parts) {
      part.below = bar.usd;
      bar.usd += part.usd;
    }
  }
  return bars;
}

function fillPart(rect, part, most) {
  const scale = most > 0 ? HEIGHT / most : 0;
  const width = WIDTH / part.of;
  setAttribute(rect, "class", `c${part.i}`);
  setAttribute(rect, "x", (part.at * width + GAP / 2).toFixed(1));
  setAttribute(rect, "width", (width - GAP).toFixed(1));
  setAttribute(rect, "y", (HEIGHT - (part.below + part.usd) * scale).toFixed(1));
  setAttribute(rect, "height", (part.usd * scale).toFixed(1));
  setText(rect.firstChild, `${part.day} ${part.name}: ${usd(part.usd)}`);
}

function sumRow() {
  return h("tr", {}, h("td", {}, h("strong", {})), ...[0, 1, 2, 3, 4].map(() => h("td", { class: "num" })));
}

function fillSum(row, sum) {
  const [name, cost, estimated, calls, input, output] = row.children;
  setText(name.firstChild, sum.name);
  setText(cost, usd(sum.usd));
  setText(estimated, usd(sum.estimated));
  setText(calls, count(sum.calls));
  setText(input, count(sum.input));
  setText(output, count(sum.output));
}
