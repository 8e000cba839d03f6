// What the page knows: the last statistics of each replica, all tenants heard of, the last minutes, jobs seen.
// Values only; nothing here touches the page or the bus. Times are milliseconds since 1970.

export const HISTORY_S = 300;
export const MOST_JOBS = 500;
const PAGE_OF_TENANTS = 100;
const REPLICA_GONE_MS = 5_000;
const RATE_S = 5;
const SPEED_MS = 3_000;
export const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "rejected"]);

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : 0);
const text = (value) => (typeof value === "string" ? value : "");
const list = (value) => (Array.isArray(value) ? value.filter((each) => each !== null && typeof each === "object") : []);

export class Books {
  constructor() {
    this.replicas = new Map();
    this.tenants = new Map();
    this.scheduler = null;
    this.jobs = new Map();
    this.history = new History();
    this.heardAt = 0;
    this.seconds = new Seconds();
    this.jobsSeen = 0;
    this.skipped = 0;
    this.costSeen = 0;
  }

  /** Statistics of one replica. Returns whether they were the scheduler's. */
  hearStats(given, now) {
    if (given === null || typeof given !== "object" || !text(given.replica)) return false;
    const stats = wellFormed(given);
    this.heardAt = now;
    this.replicas.set(stats.replica, { stats, at: now });
    for (const [name, { at }] of this.replicas) if (now - at > REPLICA_GONE_MS) this.replicas.delete(name);
    if (!stats.is_scheduler) return false;
    this.scheduler = { stats, at: now };
    this.#hearTenants(stats, now);
    return true;
  }

  #hearTenants(stats, now) {
    for (const tenant of [...list(stats.tenants), ...list(stats.more_tenants)]) {
      if (text(tenant?.tenant)) this.tenants.set(tenant.tenant, tenantRow(tenant, now));
    }
    const others = number(stats.other_tenants?.tenants);
    const goneMs = 1000 * (2 * Math.ceil(others / PAGE_OF_TENANTS) + 5);
    for (const [name, { at }] of this.tenants) if (now - at > goneMs) this.tenants.delete(name);
  }

  /** The scheduler's last word, unless it has been silent. */
  current(now) {
    return this.scheduler !== null && now - this.scheduler.at < REPLICA_GONE_MS ? this.scheduler.stats : null;
  }

  /** An event of a job; `event` is null when there were too many to read them all. */
  hearEvent(tenant, job, kind, event, now) {
    if (kind === "result") this.seconds.add(now, event === null || event.data?.state === "succeeded");
    if (event === null) {
      this.skipped += 1;
      return;
    }
    const data = event.data ?? {};
    const row = this.#job(tenant, job, now);
    row.attempt = number(event.attempt);
    if (kind === "status") Object.assign(row, { state: text(data.state), waitsFor: text(data.for), updated: now });
    if (kind === "status" && data.state === "running" && !row.started) row.started = Date.parse(event.time) || now;
    if (text(data.model)) row.model = data.model;
    if (kind === "result") this.#ended(row, data, now);
    this.jobs.delete(row.key);
    this.jobs.set(row.key, row);
    this.#forget();
  }

  #ended(row, data, now) {
    row.state = text(data.state);
    row.ended = now;
    row.updated = now;
    row.cost = typeof data.cost_usd === "number" ? data.cost_usd : null;
    row.tokens = number(data.usage?.output_tokens);
    row.totalMs = number(data.timings?.total_ms);
    row.error = text(data.error?.code);
    row.speed = null;
    this.costSeen += number(data.cost_usd);
  }

  /** Jobs as `jobs.<tenant>` lists them: fills in what no event has told. */
  hearList(documents) {
    for (const document of list(documents).reverse()) {
      const known = this.jobs.get(`${document?.tenant}/${document?.job}`);
      if (!text(document?.job) || !text(document?.tenant)) continue;
      if (known !== undefined && known.updated > (Date.parse(document.updated) || 0)) {
        known.class = text(document.class);
        continue;
      }
      const row = this.#job(document.tenant, document.job, Date.parse(document.updated) || 0);
      row.state = text(document.state);
      row.model = text(document.model) || row.model;
      row.class = text(document.class);
      row.error = text(document.error_code) || row.error;
      row.attempt = number(document.attempt);
      row.started ||= row.state === "running" ? Date.parse(document.updated) || 0 : 0;
      if (ENDED.has(row.state)) {
        row.ended = Date.parse(document.updated) || 0;
        row.totalMs = Math.max(0, row.ended - (Date.parse(document.created) || row.ended));
      }
    }
    this.#forget();
  }

  /** Characters that came of a running job, for its speed. */
  hearText(key, characters, now) {
    const row = this.jobs.get(key);
    if (row === undefined || row.ended) return;
    row.pieces = [...(row.pieces ?? []).filter(([at]) => now - at < SPEED_MS), [now, characters]];
    row.characters = (row.characters ?? 0) + characters;
  }

  /** Characters a second over the last seconds; null where nobody listens or nothing came. */
  speedOf(row, now) {
    const pieces = (row.pieces ?? []).filter(([at]) => now - at < SPEED_MS);
    if (!pieces.length || row.ended) return null;
    return pieces.reduce((sum, [, n]) => sum + n, 0) / (SPEED_MS / 1000);
  }

  #job(tenant, job, now) {
    const key = `${tenant}/${job}`;
    let row = this.jobs.get(key);
    if (row === undefined) {
      row = { key, tenant, job, state: "", model: "", class: "", attempt: 0, started: 0, ended: 0, updated: now };
      this.jobs.set(key, row);
      this.jobsSeen += 1;
    }
    return row;
  }

  #forget() {
    for (const [key, row] of this.jobs) {
      if (this.jobs.size <= MOST_JOBS) return;
      if (row.ended) this.jobs.delete(key);
    }
    for (const key of this.jobs.keys()) {
      if (this.jobs.size <= MOST_JOBS) return;
      this.jobs.delete(key);
    }
  }

  /** Totals of this second; kept for the charts, but while statistics are awaited. */
  tick(now, { isAwaited = false } = {}) {
    const stats = this.current(now);
    const done = this.seconds.rates(now);
    const live = [...this.jobs.values()].filter((row) => !row.ended);
    const totals = {
      queued: stats ? number(stats.queued) : live.filter((row) => row.state === "queued").length,
      running: stats ? number(stats.running) : live.filter((row) => row.state !== "queued").length,
      slots: [...this.replicas.values()].reduce((sum, { stats: each }) => sum + number(each.slots), 0),
      finished: done.all,
      failed: done.failed,
      tokens: stats ? sumOf(stats, "tokens_per_minute") : null,
      spend: stats ? sumOf(stats, "spend_today_usd") : this.costSeen,
      refused: stats ? list(stats.pools).reduce((sum, pool) => sum + number(pool.throttles_last_minute), 0) : null,
    };
    if (!isAwaited || stats !== null) this.history.push(totals);
    return totals;
  }
}

/** The lists that views walk are there, and what they sort by is text. */
function wellFormed(stats) {
  const named = (items, name) => list(items).map((item) => ({ ...item, [name]: String(item[name]) }));
  return {
    ...stats,
    tenants: list(stats.tenants),
    classes: list(stats.classes),
    pools: named(stats.pools, "model"),
    models: named(stats.models, "model"),
    holds: named(stats.holds, "cause"),
    pauses: list(stats.pauses),
  };
}

function sumOf(stats, field) {
  return list(stats.tenants).reduce((sum, each) => sum + number(each[field]), number(stats.other_tenants?.[field]));
}

function tenantRow(tenant, at) {
  const row = { name: tenant.tenant, at, queued: 0, running: 0, wait: null, byClass: {} };
  for (const lane of list(tenant.lanes)) {
    row.byClass[lane.class] = number(lane.queued);
    row.queued += number(lane.queued);
    row.running += number(lane.running);
    if (typeof lane.wait_p95_ms === "number") row.wait = Math.max(row.wait ?? 0, lane.wait_p95_ms);
  }
  row.weight = number(tenant.weight);
  row.share = number(tenant.share);
  row.fair = number(tenant.fair_share);
  row.tokens = number(tenant.tokens_per_minute);
  row.spend = number(tenant.spend_today_usd);
  row.budget = typeof tenant.budget_today_usd === "number" ? tenant.budget_today_usd : null;
  return row;
}

/** Values of the last `HISTORY_S` seconds by name. */
class History {
  constructor() {
    this.points = [];
  }

  push(totals) {
    this.points.push(totals);
    if (this.points.length > HISTORY_S) this.points.shift();
  }

  of(name) {
    return this.points.map((point) => number(point[name]));
  }
}

/** Results heard in each of the last seconds. */
class Seconds {
  constructor() {
    this.counts = new Map();
  }

  add(now, isGood) {
    const second = Math.floor(now / 1000);
    const entry = this.counts.get(second) ?? { all: 0, failed: 0 };
    entry.all += 1;
    if (!isGood) entry.failed += 1;
    this.counts.set(second, entry);
  }

  rates(now) {
    const last = Math.floor(now / 1000);
    const sum = { all: 0, failed: 0 };
    for (const [second, entry] of this.counts) {
      if (second < last - RATE_S) this.counts.delete(second);
      else if (second < last) {
        sum.all += entry.all;
        sum.failed += entry.failed;
      }
    }
    return { all: sum.all / RATE_S, failed: sum.failed / RATE_S };
  }
}
