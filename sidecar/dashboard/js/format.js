// Numbers, money and times as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 9,876 as it is, 12.3K from ten thousand on. */
export function count(value) {
  if (!isNumber(value)) return NONE;
  return Math.abs(value) < 10_000 ? whole.format(value) : short.format(value);
}

export function rate(value) {
  if (!isNumber(value)) return NONE;
  return value !== 0 && value < 10 ? value.toFixed(1) : count(value);
}

export function usd(value) {
  if (!isNumber(value)) return NONE;
  if (value === 0) return "$0";
  if (value < 0.01) return `$${value.toFixed(6)}`;
  return value < 10_000 ? `$${cents.format(value)}` : `$${short.format(value)}`;
}

export function percent(share) {
  if (!isNumber(share)) return NONE;
  return `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
}

/** Milliseconds: 40 ms, 2.5 s, 3 min, 2.1 h. */
export function milliseconds(value) {
  if (!isNumber(value)) return NONE;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`;
  if (value < 3_600_000) return `${Math.round(value / 60_000)} min`;
  return `${(value / 3_600_000).toFixed(1)} h`;
}

export function seconds(value) {
  return isNumber(value) ? milliseconds(value * 1000) : NONE;
}

/** How long ago, in whole units. `at` and `now` in milliseconds. */
export function ago(at, now) {
  const s = Math.max(0, Math.round((now - at) / 1000));
  if (s < 2) return "now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return `${Math.floor(s / 3600)} h ago`;
}

/** The time of day of an RFC 3339 text, here. */
export function clock(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? NONE : time.toLocaleTimeString("en-GB");
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** A value of a tool as text, of bounded length. */
export function compact(value, longest = 2000) {
  if (value === undefined || value === null) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 1);
  return text.length > longest ? `${text.slice(0, longest)} … (${count(text.length)} characters)` : text;
}
