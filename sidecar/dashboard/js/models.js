// Models and the quota pools they are called through: health, quota used, refusals, prices.

import { fillRows, h, setAttribute, setPart, setText, show } from "./dom.js";
import { count, milliseconds, percent, plural, usd } from "./format.js";
import { badge, fillBadge } from "./state.js";
import { card, modelsOf, table } from "./parts.js";

export class Models {
  constructor(root) {
    this.pools = h("tbody", {});
    this.poolsNote = h("p", { class: "hint" });
    this.models = h("tbody", {});
    this.poolCard = card(
      "Quota pools",
      "",
      h("p", { class: "hint" }, "A pool is one model or inference profile in one region, with a quota of its own."),
      table(["Model", "Region", "Health", "Quota used", "#Tokens/min", "#Left", "#In flight", "#Refused/min"], this.pools),
      this.poolsNote,
    );
    this.catalogue = h("tbody", {});
    this.catalogueCard = card(
      "Catalogue",
      "",
      table(["Model", "Family", "Health", "#Context", "#Input per million", "#Output per million", "Usable"], this.catalogue),
    );
    root.append(h("h1", {}, "Models"), this.poolCard, this.catalogueCard);
  }

  render({ books, now, catalogue }) {
    const stats = books.current(now);
    const pools = modelsOf(stats ?? {}).flatMap((model) => model.pools);
    pools.sort((a, b) => b.in_flight - a.in_flight || b.used_share - a.used_share || a.model.localeCompare(b.model));
    show(this.poolCard, stats !== null || !catalogue.length);
    fillRows(this.pools, pools, poolRow, fillPool);
    const more = stats?.other_pools ?? 0;
    setText(this.poolsNote, more ? `${plural(more, "pool")} more.` : pools.length ? "" : "No pool has been used yet.");
    show(this.catalogueCard, catalogue.length > 0);
    fillRows(this.catalogue, catalogue, catalogueRow, fillCatalogue);
  }
}

function poolRow() {
  const used = h("td", { class: "wide" }, h("div", { class: "bar fill", role: "img" }, h("i", { class: "got" })), h("span", { class: "num" }));
  const numbers = [0, 1, 2, 3].map(() => h("td", { class: "num" }));
  return h("tr", {}, h("td", {}, h("strong", {}), h("small", {})), h("td", {}), h("td", {}, badge()), used, ...numbers);
}

function fillPool(row, pool) {
  const [model, region, health, used, quota, left, flying, refused] = row.children;
  setText(model.firstChild, pool.model);
  setText(model.lastChild, pool.invoke_id === pool.model ? "" : pool.invoke_id);
  setText(region, pool.region);
  fillBadge(health.firstChild, pool.health);
  fillUse(used.firstChild, pool.used_share);
  setText(used.lastChild, percent(pool.used_share));
  setText(quota, count(pool.tokens_per_minute));
  setText(left, count(pool.tokens_remaining));
  setText(flying, count(pool.in_flight));
  setText(refused, count(pool.throttles_last_minute));
  setAttribute(refused, "data-tone", pool.throttles_last_minute > 0 ? "warn" : "");
}

function fillUse(bar, share) {
  setPart(bar, "--got", share);
  setAttribute(bar, "data-tone", share > 0.95 ? "bad" : share > 0.8 ? "warn" : "");
  setAttribute(bar, "aria-label", `${percent(share)} of the quota used`);
}

function catalogueRow() {
  const cells = [h("td", {}, h("strong", {}), h("small", {})), h("td", {}), h("td", {}, badge())];
  return h("tr", {}, ...cells, ...[0, 1, 2].map(() => h("td", { class: "num" })), h("td", {}));
}

function fillCatalogue(row, model) {
  const [name, family, health, context, input, output, usable] = row.children;
  setText(name.firstChild, model.alias);
  setText(name.lastChild, model.model_id);
  setText(family, model.family);
  fillBadge(health.firstChild, model.health);
  setText(context, count(model.context_tokens));
  setText(input, usd(model.price_input_usd_per_mtok));
  setText(output, usd(model.price_output_usd_per_mtok));
  setText(usable, model.unusable ? `no: ${model.unusable}` : "yes");
}

/** One line of a model, by its statistics or, for a tenant, by the catalogue. */
export function modelRow() {
  const bar = h("div", { class: "bar fill", role: "img" }, h("i", { class: "got" }));
  return h("div", { class: "line model-line" }, h("strong", {}), badge(), bar, h("span", { class: "num" }), h("span", { class: "faint" }));
}

export function fillModels(row, model) {
  const [name, health, bar, used, more] = row.children;
  setText(name, model.model ?? model.alias);
  setAttribute(name, "title", model.model ?? model.alias);
  fillBadge(health, model.health);
  const pools = model.pools ?? [];
  const share = pools.reduce((most, pool) => Math.max(most, pool.used_share), 0);
  show(bar, pools.length > 0);
  fillUse(bar, share);
  setText(used, pools.length ? `${percent(share)} of quota` : "");
  setText(more, pools.length ? aboutCalls(model) : model.unusable ?? "");
}

function aboutCalls(model) {
  const words = [`${plural(model.calls, "call")} a minute`];
  if (model.errors) words.push(`${count(model.errors)} refused`);
  if (typeof model.first_token_p50_ms === "number") words.push(`first token ${milliseconds(model.first_token_p50_ms)}`);
  return words.join(" · ");
}
