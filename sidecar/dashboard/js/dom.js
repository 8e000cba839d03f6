// Elements out of values. Text goes in as text nodes alone: nothing here, or elsewhere, parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `properties` are attributes, `class`, or handlers (`onclick`); children are nodes or texts. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set the text if it is another one: what did not change costs no layout. */
export function setText(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

export function setAttribute(element, name, value) {
  const text = String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** A custom property of the style, for bars: `--part: 34%`. */
export function setPart(element, name, share) {
  const text = `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(1)}%`;
  if (element.style.getPropertyValue(name) !== text) element.style.setProperty(name, text);
}

/** As many rows in `parent` as there are items: kept ones are filled anew, made by `make`, filled by `fill`. */
export function fillRows(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, i) => {
    const row = parent.children[i] ?? parent.appendChild(make());
    fill(row, item, i);
  });
}

export const byId = (id) => document.getElementById(id);
