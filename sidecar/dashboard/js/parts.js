// What several views are made of: boxes, tables, bars.

import { h, setAttribute, setPart } from "./dom.js";
import { percent } from "./format.js";

const NUMBER = "#";

/** A titled box; `link` leads to the whole of what it shows the top of. */
export function card(title, link, ...children) {
  const heading = h("h2", {}, link ? h("a", { href: link }, title) : title);
  return h("section", { class: "card" }, heading, ...children);
}

/** A scrolling table; headings that begin with `#` are of numbers. */
export function table(headings, body) {
  const head = h("tr", {}, ...headings.map((text) => h("th", { scope: "col", class: text.startsWith(NUMBER) ? "num" : null }, text.replace(NUMBER, ""))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, h("thead", {}, head), body));
}

/** A bar of what was got, with a mark where the weights would have it. */
export function shareBar() {
  return h("div", { class: "bar share", role: "img" }, h("i", { class: "got" }), h("i", { class: "fair" }));
}

/** Shares are drawn up to `most`, which fills the bar. */
export function fillShareBar(bar, { share, fair }, most = 1) {
  setPart(bar, "--got", share / most);
  setPart(bar, "--fair", fair / most);
  setAttribute(bar, "data-fair", fair > 0 ? "yes" : "no");
  setAttribute(bar, "aria-label", `got ${percent(share)}, entitled to ${percent(fair)}`);
}

/** Models with the pools they are called through, the busiest first. */
export function modelsOf(stats) {
  const pools = new Map();
  for (const pool of stats.pools ?? []) {
    if (!pools.has(pool.model)) pools.set(pool.model, []);
    pools.get(pool.model).push(pool);
  }
  const models = (stats.models ?? []).map((model) => ({ ...model, pools: pools.get(model.model) ?? [] }));
  return models.sort((a, b) => b.calls - a.calls || b.errors - a.errors || a.model.localeCompare(b.model));
}
