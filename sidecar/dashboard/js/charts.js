// Small charts as SVG: a line over the last minutes, nothing more.

import { setAttribute, svg } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 44;
const PAD = 2;
const STEP_S = 60;

/** A line with a value a second, the newest at the right edge. `draw(values)` draws it anew. */
export function sparkline(label) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const element = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    area,
    line,
  );
  return {
    element,
    draw(values, format) {
      const { path, most } = pathOf(values);
      setAttribute(line, "d", path);
      setAttribute(area, "d", path ? `${path}L${WIDTH} ${HEIGHT}L${startOf(values)} ${HEIGHT}Z` : "");
      if (values.length) setAttribute(element, "aria-label", `${label}: now ${format(values.at(-1))}, at most ${format(most)}`);
    },
  };
}

/** Seconds from edge to edge: whole minutes, as many as there are values for. */
const spanOf = (length) => Math.max(1, Math.ceil(length / STEP_S)) * STEP_S;
const xOf = (i, length) => ((spanOf(length) - length + i) / (spanOf(length) - 1)) * WIDTH;
const startOf = (values) => xOf(0, values.length).toFixed(1);

/** The line through the values, scaled so that the largest touches the top; a flat zero lies at the bottom. */
export function pathOf(values) {
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  if (values.length < 2) return { path: "", most };
  const scale = most > 0 ? (HEIGHT - 2 * PAD) / most : 0;
  const points = values.map((value, i) => `${xOf(i, values.length).toFixed(1)} ${(HEIGHT - PAD - value * scale).toFixed(1)}`);
  return { path: `M${points.join("L")}`, most };
}
