// One job: everything stored of it, then what comes, until its result.

import { Story } from "./story.js";
import { fillRows, h, setAttribute, setText, show } from "./dom.js";
import { clock, compact, count, milliseconds, usd } from "./format.js";
import { card, table } from "./parts.js";
import { badge, fillBadge } from "./state.js";

const NEAR_END_PX = 40;
const AGAIN_MS = 2_000;

export class JobView {
  constructor(root) {
    this.root = root;
    this.follower = null;
  }

  /** Follow this job of `bus` until `leave`. */
  open(bus, tenant, job) {
    this.leave();
    this.follower = new Follower(bus, tenant, job, () => this.#soon());
    this.page = new JobPage(this.root, tenant, job);
    this.follower.start();
    this.#soon();
  }

  leave() {
    this.follower?.stop();
    this.follower = null;
    this.root.replaceChildren();
  }

  /** After the connection was lost: what was missed is asked for. */
  resume() {
    this.follower?.catchUp();
  }

  #soon() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      if (this.follower !== null) this.page.render(this.follower);
    });
  }
}

/** Hears a job live and asks for what is stored; the story puts both into order. */
class Follower {
  constructor(bus, tenant, job, onNews) {
    Object.assign(this, { bus, tenant, job, onNews });
    this.story = new Story();
    this.document = null;
    this.problem = "";
    this.isMissing = false;
    this.isLoading = false;
    this.askedAt = 0;
    this.isStopped = false;
    this.unsubscribe = () => {};
  }

  start() {
    this.unsubscribe = this.bus.subscribe(
      `job.${this.tenant}.${this.job}.*`,
      (_, message) => this.#hear(message.json()),
      () => this.#fail("These credentials may not follow this job."),
    );
    this.catchUp();
  }

  stop() {
    this.isStopped = true;
    this.unsubscribe();
  }

  async catchUp() {
    if (this.isLoading) return;
    this.isLoading = true;
    this.askedAt = Date.now();
    let held = this.story.held;
    this.onNews();
    try {
      await this.bus.replay(this.tenant, this.job, this.story.place, (event) => this.story.hear(event));
      this.document = await this.bus.ask(`get.${this.tenant}.${this.job}`);
      this.problem = "";
      this.isMissing = false;
    } catch (error) {
      this.isMissing = error.kind === "missing";
      held = this.story.held;
      if (!this.isStopped) this.#fail(this.isMissing ? `There is no such job: ${error.message}` : error.message);
    } finally {
      this.isLoading = false;
    }
    this.story.release(held);
    this.onNews();
    // What came while we asked may lack what was stored after the answer.
    if (this.story.hasHole && !this.isStopped) this.catchUp();
  }

  #hear(event) {
    this.story.hear(event);
    // A hole in the numbers: something was not heard, but it is stored. And a job that was not there yet now is.
    const isUnknown = this.document === null && Date.now() - this.askedAt > AGAIN_MS;
    if (this.story.hasHole || isUnknown) this.catchUp();
    this.onNews();
  }

  #fail(text) {
    this.problem = text;
    this.onNews();
  }
}

class JobPage {
  constructor(root, tenant, job) {
    this.state = badge();
    this.facts = h("dl", { class: "facts" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.loading = h("p", { class: "hint", role: "status" }, "Reading what is stored …");
    this.reasoning = h("pre", { class: "text" });
    this.thought = h("details", { class: "thought", hidden: true }, h("summary", {}, "Reasoning"), this.reasoning);
    this.text = h("pre", { class: "text answer", tabindex: "0", "aria-label": "Answer" });
    this.textNote = h("p", { class: "hint" });
    this.tools = h("div", { class: "tools" });
    this.toolCard = card("Tool calls", "", this.tools);
    this.steps = h("ol", { class: "steps" });
    this.attempts = h("tbody", {});
    this.attemptCard = card("Calls of models", "", table(["Model", "Region", "Outcome", "#Time", "Error"], this.attempts));
    this.warnings = h("ul", { class: "notes" });
    this.warningCard = card("Warnings", "", this.warnings);
    const back = h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("a", { href: `#/jobs?of=${encodeURIComponent(tenant)}` }, tenant));
    root.replaceChildren(
      back,
      h("div", { class: "bar-top" }, h("h1", { class: "job-name" }, job), this.state),
      this.problem,
      this.loading,
      this.facts,
      h(
        "div",
        { class: "columns job-columns" },
        h("div", {}, card("Answer", "", this.thought, this.text, this.textNote), this.toolCard),
        h("div", {}, card("What happened", "", this.steps), this.attemptCard, this.warningCard),
      ),
    );
  }

  render({ story, document, problem, isMissing, isLoading }) {
    const result = story.result ?? document?.result ?? null;
    fillBadge(this.state, result?.state ?? (story.state || document?.state), story.waitsFor);
    show(this.state, Boolean(result || story.state || document));
    show(this.problem, Boolean(problem) && !(isMissing && story.count));
    setText(this.problem, problem);
    show(this.loading, isLoading && !story.count);
    fillRows(this.facts, factsOf(story, document, result), factRow, fillFact);
    this.#answer(story, result);
    fillRows(this.tools, story.tools, toolRow, fillTool);
    show(this.toolCard, story.tools.length > 0);
    fillRows(this.steps, story.steps, stepRow, fillStep);
    fillRows(this.attempts, result?.attempts ?? [], attemptRow, fillAttempt);
    show(this.attemptCard, Boolean(result?.attempts?.length));
    fillRows(this.warnings, result?.warnings ?? [], () => h("li", {}), (row, text) => setText(row, text));
    show(this.warningCard, Boolean(result?.warnings?.length));
  }

  #answer(story, result) {
    const wasAtEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < NEAR_END_PX;
    grow(this.text, result?.output?.text || story.text);
    grow(this.reasoning, story.reasoning);
    show(this.thought, Boolean(story.reasoning));
    setAttribute(this.text, "data-live", result || !story.text ? "no" : "yes");
    setText(this.textNote, noteOf(story, result));
    show(this.text, this.text.textContent !== "");
    if (wasAtEnd && !result) this.text.scrollTop = this.text.scrollHeight;
  }
}

/** Text that mostly grows at its end: only the new part is put in. */
function grow(element, text) {
  const node = element.firstChild ?? element.appendChild(document.createTextNode(""));
  const had = node.data.length;
  if (text.length > had && text.startsWith(node.data)) node.appendData(text.slice(had));
  else if (text !== node.data) node.data = text;
}

function noteOf(story, result) {
  const notes = [];
  if (story.attempt > 1) notes.push(`This is attempt ${story.attempt}; the text of earlier ones does not count.`);
  if (story.isCut) notes.push("The text is longer than this page shows.");
  if (result?.partial) notes.push("The answer is not complete.");
  const stored = result?.output?.object;
  if (stored) notes.push(`The whole output, ${count(stored.size)} bytes, lies in the object store: ${compact(stored.bucket)} ${compact(stored.name)}.`);
  if (result?.error) notes.push(`${result.error.code}: ${result.error.message}`);
  if (!notes.length && !result && !story.text) notes.push("No text has come yet. A job without `stream` shows its answer with the result.");
  if (!notes.length && result && !result.output?.text) notes.push("The job has no text.");
  return notes.join(" ");
}

function factsOf(story, document, result) {
  const usage = result?.usage ?? {};
  const facts = [
    ["Class", document?.class],
    ["Model", result?.model ?? story.model ?? document?.model],
    ["Region", story.region],
    ["Attempt", story.attempt || document?.attempt || null],
    ["Created", document?.created ? clock(document.created) : null],
  ];
  if (result) {
    facts.push(
      ["Cost", usd(result.cost_usd)],
      ["Tokens in", count(usage.input_tokens)],
      ["Tokens out", count(usage.output_tokens) + (result.usage_basis === "estimated" ? " (estimated)" : "")],
      ["Waited", milliseconds(result.timings?.queued_ms)],
      ["First token", milliseconds(result.timings?.first_token_ms)],
      ["Total", milliseconds(result.timings?.total_ms)],
      ["Stopped by", result.stop_reason],
    );
  } else if (story.text) facts.push(["Characters", count(story.text.length)]);
  return facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
}

const factRow = () => h("div", {}, h("dt", {}), h("dd", {}));

function fillFact(row, [name, value]) {
  setText(row.firstChild, name);
  setText(row.lastChild, value);
}

function stepRow() {
  return h("li", {}, h("time", {}), badge(), h("span", {}));
}

function fillStep(row, step) {
  const [time, state, more] = row.children;
  setText(time, clock(step.time));
  fillBadge(state, step.state);
  setText(more, step.text);
}

function toolRow() {
  return h("details", {}, h("summary", {}, h("strong", {}), badge(), h("span", { class: "faint" })), h("pre", { class: "text" }), h("pre", { class: "text" }));
}

function fillTool(row, tool) {
  const [name, state, time] = row.firstChild.children;
  setText(name, tool.name);
  fillBadge(state, { called: "running", returned: "succeeded", failed: "failed" }[tool.phase] ?? tool.phase);
  setText(time, typeof tool.elapsedMs === "number" ? milliseconds(tool.elapsedMs) : "");
  setText(row.children[1], `in  ${compact(tool.input)}`);
  setText(row.children[2], tool.error ? `error  ${compact(tool.error)}` : tool.output === undefined ? "" : `out  ${compact(tool.output)}`);
}

function attemptRow() {
  return h("tr", {}, h("td", {}), h("td", {}), h("td", {}, badge()), h("td", { class: "num" }), h("td", {}));
}

function fillAttempt(row, attempt) {
  const [model, region, outcome, time, error] = row.children;
  setText(model, attempt.model_id);
  setText(region, attempt.region);
  fillBadge(outcome.firstChild, { ok: "succeeded", error: "failed" }[attempt.outcome] ?? attempt.outcome);
  setText(time, milliseconds(attempt.elapsed_ms));
  setText(error, attempt.error ? `${attempt.error.code}: ${attempt.error.message}` : "");
}
