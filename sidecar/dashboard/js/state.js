// Words and looks of states, shared by all views.

import { h, setAttribute, setText } from "./dom.js";

const TONES = {
  queued: "calm",
  running: "busy",
  waiting: "warn",
  retrying: "warn",
  succeeded: "good",
  failed: "bad",
  rejected: "bad",
  expired: "warn",
  cancelled: "off",
  healthy: "good",
  degraded: "warn",
  open: "bad",
  unknown: "off",
  starting: "calm",
  draining: "calm",
};
const WORDS = { open: "not usable", degraded: "degraded" };

/** A state as a coloured word; unknown words are shown as they are. */
export function badge() {
  return h("span", { class: "badge" });
}

export function fillBadge(element, state, more = "") {
  setText(element, (WORDS[state] ?? (state || "unknown")) + (more ? ` (${more})` : ""));
  setAttribute(element, "data-tone", TONES[state] ?? "off");
}

/** Where a job's page is. */
export function jobLink(tenant, job) {
  return `#/job/${encodeURIComponent(tenant)}/${encodeURIComponent(job)}`;
}
