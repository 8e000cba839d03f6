// The events of one job in their order, whatever order they come in, each once. Values only.

const LONGEST_TEXT = 400_000;
const MOST_STEPS = 200;
const MOST_TOOLS = 100;
const MOST_WAITING = 2_000;

const text = (value) => (typeof value === "string" ? value : "");

export class Story {
  constructor() {
    this.attempt = 0;
    this.n = 0;
    this.count = 0;
    this.waiting = new Map();
    this.steps = [];
    this.state = "";
    this.waitsFor = "";
    this.model = null;
    this.region = null;
    this.result = null;
    this.#restart();
  }

  #restart() {
    this.text = "";
    this.reasoning = "";
    this.isCut = false;
    this.tools = [];
  }

  /** Where a replay goes on. */
  get place() {
    return { attempt: this.attempt, n: this.n };
  }

  get hasHole() {
    return this.waiting.size > 0;
  }

  /** Take an event in. One that is known is dropped; one that comes too early waits for those before it. */
  hear(event) {
    if (!Number.isInteger(event?.attempt) || !Number.isInteger(event?.n)) return;
    if (this.#isKnown(event)) return;
    if (this.waiting.size < MOST_WAITING) this.waiting.set(`${event.attempt}.${event.n}`, event);
    this.#tell();
  }

  /** What waits now, for `release` after those before it have been asked for. */
  get held() {
    return [...this.waiting.keys()];
  }

  /** Take these without those before them: they are stored no more. */
  release(keys) {
    const rest = keys.map((key) => this.waiting.get(key)).filter((event) => event !== undefined);
    for (const key of keys) this.waiting.delete(key);
    for (const event of rest.sort((a, b) => a.attempt - b.attempt || a.n - b.n)) this.#take(event);
    this.#tell();
  }

  #tell() {
    for (;;) {
      const next = this.waiting.get(`${this.attempt}.${this.n + 1}`) ?? this.#firstOfLater();
      if (next === undefined) return;
      this.waiting.delete(`${next.attempt}.${next.n}`);
      this.#take(next);
    }
  }

  #firstOfLater() {
    for (const event of this.waiting.values()) if (event.attempt > this.attempt && event.n === 1) return event;
    return undefined;
  }

  #isKnown(event) {
    return event.attempt < this.attempt || (event.attempt === this.attempt && event.n <= this.n);
  }

  #take(event) {
    if (this.#isKnown(event)) return;
    if (event.attempt > this.attempt) {
      this.attempt = event.attempt;
      this.#restart();
    }
    this.n = event.n;
    this.count += 1;
    const data = event.data ?? {};
    if (event.type === "status") this.#status(event, data);
    if (event.type === "delta") this.#delta(data);
    if (event.type === "tool") this.#tool(data);
    if (event.type === "result") this.#result(event, data);
  }

  #status(event, data) {
    this.state = text(data.state);
    this.waitsFor = text(data.for);
    this.model = text(data.model) || this.model;
    this.region = text(data.region) || this.region;
    this.#step(event, data.state, aboutStatus(data));
  }

  #delta(data) {
    if (this.text.length + this.reasoning.length > LONGEST_TEXT) {
      this.isCut = true;
      return;
    }
    this.text += text(data.text);
    this.reasoning += text(data.reasoning);
  }

  #tool(data) {
    const id = text(data.tool_use_id);
    let tool = this.tools.find((known) => known.id === id && id !== "");
    if (tool === undefined) {
      tool = { id, name: text(data.tool) + (data.version ? `@${data.version}` : "") };
      this.tools.push(tool);
      if (this.tools.length > MOST_TOOLS) this.tools.shift();
    }
    tool.phase = text(data.phase);
    if (data.input !== undefined) tool.input = data.input;
    if (data.output !== undefined) tool.output = data.output;
    if (data.error !== undefined) tool.error = data.error?.message ?? data.error;
    tool.elapsedMs = data.elapsed_ms ?? null;
  }

  #result(event, data) {
    this.result = data;
    this.state = text(data.state);
    this.waitsFor = "";
    this.#step(event, data.state, data.error ? `${data.error.code}: ${data.error.message}` : "");
  }

  #step(event, state, about) {
    this.steps.push({ time: event.time, state: text(state), text: about });
    if (this.steps.length > MOST_STEPS) this.steps.shift();
  }
}

function aboutStatus(data) {
  const words = [];
  if (data.for) words.push(`for ${data.for}`);
  if (data.model) words.push(data.model + (data.region ? ` in ${data.region}` : ""));
  if (data.reason) words.push(`because ${data.reason}`);
  if (data.error) words.push(`${data.error.code}: ${data.error.message}`);
  if (data.next) words.push(`then ${data.next}`);
  for (const passed of Array.isArray(data.candidates) ? data.candidates : []) words.push(`not ${passed.model}: ${passed.reason}`);
  return words.join(" · ");
}
