// One message: where it stands and why, its timeline, its text as it streams, and what can be done with it.

import { render } from "../chat/markdown.js";
import { headers } from "../chat/access.js";
import { call, get, may, part, serviceUrl } from "./api.js";
import { followWhileSeen } from "./changes.js";
import { waterfall } from "./charts.js";
import { eventLog } from "./event_log.js";
import { action, ask, asText, badge, copier, counted, el, facts, link, moment, number, secondsBetween, shortId, span, tell } from "./show.js";

const REFRESH_SECONDS = 2;
const OVER = ["completed", "failed", "cancelled"];

export function message(root, at, id) {
  const [head, why, actions, question, timeline, details] = Array.from({ length: 6 }, () => el("div"));
  const said = el("p", { role: "status" });
  const text = el("div.stream.text", { tabIndex: 0, role: "region", "aria-label": "What it streams" });
  const streamed = el("section", { hidden: true }, el("h2", {}, "Streamed text"), text);
  root.append(el("p.back", {}, link("messages", "Messages")), head, why, actions, question, said, el("h2", {}, "Timeline"), timeline, streamed, details, eventLog(at, id, () => life));
  let stop = null;
  let life = "";

  const refresh = async () => {
    const [found, reasons] = await Promise.all([get(`messages/${part(id)}`, {}, at.signal), get(`messages/${part(id)}/explain`, {}, at.signal)]);
    const { status } = found;
    showHead(head, status);
    showWhy(why, status, reasons.reasons);
    showActions(actions, found, said, refresh);
    showQuestion(question, status, said, refresh);
    timeline.replaceChildren(waterfall(bars(found)), found.complete ? "" : el("p.quiet", {}, "Its log is long: this is its beginning."));
    showDetails(details, found);
    const now = lifeOf(found);
    if (stop === null || life !== now) {
      life = now;
      stop?.abort();
      stop = new AbortController();
      at.signal.addEventListener("abort", () => stop.abort());
      read(id, { text, streamed }, stop.signal, refresh);
    }
    return OVER.includes(status.state);
  };
  at.every(REFRESH_SECONDS, async () => {
    if (head.dataset.over && said.dataset.acted !== "true") return;
    said.dataset.acted = "";
    head.dataset.over = (await refresh()) ? "true" : "";
  }, head);
}

/** Which of its lives a message is in, after redrives; in a long log, which attempt. */
const lifeOf = ({ status, events, complete }) => (complete ? `life ${events.find(({ type }) => type === "queued")?.events}` : `attempt ${status.attempt}`);

function showHead(place, status) {
  const thread = status.thread_id ? [" in ", link(`threads/${part(status.thread_id)}`, status.thread_id)] : [];
  place.replaceChildren(
    el("div.title", {}, el("h1", { title: status.message_id }, `Message ${shortId(status.message_id)}`), badge(status.state, status.hold)),
    el("p.quiet", {}, "For ", link(`messages?agent=${part(status.agent)}`, status.agent), ...thread, ", created ", moment(status.created_at), status.parent ? [", sent by ", link(`messages/${status.parent}`, shortId(status.parent))] : ""),
  );
}

/** A sentence in which the ids of other messages lead to them. */
const linked = (text, own) => text.split(/([0-9a-f]{8}-[0-9a-f-]{27})/).map((piece, n) => (n % 2 && piece !== own ? link(`messages/${piece}`, piece) : piece));

function showWhy(place, status, reasons) {
  if (status.state === "completed") {
    place.replaceChildren();
    return;
  }
  const seen = JSON.stringify(reasons);
  if (place.dataset.seen === seen) return;
  place.dataset.seen = seen;
  place.replaceChildren(el("section.why", { "aria-label": "Why", data: { state: status.state } }, el("h2", {}, status.state === "failed" ? "Why it failed" : status.state === "cancelled" ? "How it ended" : "Why it has not finished"),
    el("ol", {}, reasons.map(({ sentence, advice }) => el("li", {}, el("span", {}, linked(sentence, status.message_id)), advice ? el("span.quiet", {}, " ", linked(advice, status.message_id)) : "")))));
}

function showActions(place, { status, marks }, said, refresh) {
  const steps = OVER.includes(status.state) ? [...new Set(marks.filter(({ kind }) => kind === "step").map(({ name }) => name))] : [];
  const seen = JSON.stringify([status.state, steps]);
  if (place.dataset.seen === seen && place.hasChildNodes()) return;
  place.dataset.seen = seen;
  const then = async (text) => {
    said.dataset.acted = "true";
    await refresh();
    return text;
  };
  const buttons = [];
  if (!OVER.includes(status.state)) {
    buttons.push(action("Cancel", async () => {
      if (!(await ask("Cancel this message?", "Its agent is stopped, and so are the messages that it sent.", "Cancel the message"))) return null;
      return then((await call("DELETE", `messages/${status.message_id}`)).message);
    }, { danger: true, out: said }));
  }
  if (status.state === "queued" && !["children", "input"].includes(status.hold)) {
    buttons.push(action("Run first", async () => {
      await call("PATCH", `messages/${status.message_id}`, { body: { priority: "high" } });
      return then("Its priority is high now.");
    }, { out: said }));
    if (["delay", "backoff"].includes(status.hold)) {
      buttons.push(action("Run now", async () => {
        await call("PATCH", `messages/${status.message_id}`, { body: { delay_seconds: 0 } });
        return then("It no longer waits.");
      }, { out: said }));
    }
  }
  if (status.state === "failed" && may.operate) {
    buttons.push(action("Redrive", async () => {
      await call("POST", `messages/${status.message_id}/redrive`);
      return then("It is queued again.");
    }, { out: said }));
  }
  if (steps.length && may.operate) buttons.push(retryFrom(status, steps, said, then));
  buttons.push(copier("Copy as curl", () => curl(status)), copier("Copy as SQL", () => sql(status)), copier("Copy its id", () => status.message_id));
  place.replaceChildren(el("p.actions", {}, buttons));
}

/** The choice of a step from which a message that is over is run again. */
function retryFrom(status, steps, said, then) {
  const choice = el("select", { "aria-label": "Step" }, steps.map((name) => el("option", { value: name }, name)));
  return el("span.pair", {}, action("Retry from step", async () => {
    const step = choice.value;
    if (!(await ask(`Retry from ${step}?`, "The results of the steps before it are kept. The step and all that follows happen once more.", "Run it again"))) return null;
    await call("POST", `messages/${status.message_id}/retry`, { body: { step } });
    return then("It is queued again.");
  }, { out: said }), choice);
}

function curl(status) {
  const body = { message: status.user_message, agent: status.agent, ...(status.thread_id && { thread_id: status.thread_id }), ...(status.priority !== "normal" && { priority: status.priority }), ...(Object.keys(status.metadata).length && { metadata: status.metadata }) };
  return `curl -s ${new URL("messages", serviceUrl)} ${headers().Authorization ? '-H "Authorization: Bearer $TREADLE_KEY" ' : ""}-H 'Content-Type: application/json' -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
}

const sql = (status) => `select * from treadle.message_overview where message_id = '${status.message_id}';\nselect * from treadle.explain('${status.message_id}');\nselect seq, type, data, created_at from treadle.events where message_id = '${status.message_id}' order by seq;`;

function showQuestion(place, status, said, refresh) {
  if (!status.asks) {
    place.replaceChildren();
    return;
  }
  if (place.dataset.name === status.asks.name && place.hasChildNodes()) return;
  place.dataset.name = status.asks.name;
  const field = el("input", { id: "answer", autocomplete: "off", required: true });
  const form = el("form.question", {}, el("label", { htmlFor: "answer" }, asText(status.asks.question)), el("div", {}, field, el("button.primary", {}, "Answer")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call("POST", `messages/${status.message_id}/input`, { body: { input: field.value, name: status.asks.name } });
      tell(said, "Your answer is stored; the message goes on.");
      said.dataset.acted = "true";
      await refresh();
    } catch (error) {
      tell(said, error.message, true);
    }
  });
  place.replaceChildren(form);
}

/** The bars of the timeline: waiting, attempts with their marks, and children. */
function bars({ status, attempts, marks, descendants }) {
  const time = (text) => new Date(text).getTime();
  const now = Date.now();
  const rows = [];
  let ready = time(status.created_at);
  for (const attempt of attempts) {
    const from = time(attempt.started_at);
    const to = attempt.ended_at ? time(attempt.ended_at) : Math.max(from, now);
    if (from - ready > 5) rows.push({ name: "waits", from: ready, to: from, className: "wait" });
    const name = `attempt ${attempt.attempt}${attempt.outcome ? `: ${attempt.outcome}` : ""}`;
    rows.push({ name, from, to, className: attempt.outcome ?? "running", title: attempt.error ?? "" });
    const own = marks.filter((one) => one.attempt === attempt.attempt && one.kind !== "parked");
    for (const [index, mark] of own.entries()) {
      const called = mark.kind === "tool" && mark.began_at === mark.at;
      if (called && own.slice(index + 1).some((one) => one.kind === "tool" && one.began_at === mark.at)) continue; // its result follows
      rows.push({ name: `${mark.kind} ${mark.name ?? ""}`, from: Math.max(time(mark.began_at), from), to: called ? to : time(mark.at), className: mark.kind, title: asText(mark.shown ?? ""), depth: 1 });
    }
    ready = to;
  }
  if (!OVER.includes(status.state) && status.state === "queued") rows.push({ name: status.hold ? `waits: ${status.hold}` : "waits", from: ready, to: Math.max(ready, now), className: "wait" });
  for (const child of descendants) {
    const from = time(child.created_at);
    rows.push({ name: el("a", { href: `#messages/${child.message_id}` }, `${child.agent} ${child.state}`), from, to: child.completed_at ? time(child.completed_at) : Math.max(from, now), className: "child", depth: child.depth, title: child.error ?? "" });
  }
  return rows.length ? rows : [{ name: "waits", from: ready, to: Math.max(ready, now), className: "wait" }];
}

function showDetails(place, { status, attempts, marks, events, traceback }) {
  const seen = JSON.stringify([status, attempts.length, marks.length, traceback]);
  if (place.dataset.seen === seen) return;
  const open = new Set([...place.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  place.dataset.seen = seen;
  const box = (name, value, { first = false } = {}) => el("details", { open: first || open.has(name), data: { name } }, el("summary", {}, name), el("pre", { tabIndex: 0 }, value));
  const failed = attempts.filter(({ error }) => error);
  place.replaceChildren(
    status.error ? box("Error", [status.error, traceback].filter(Boolean).join("\n\n"), { first: true }) : "",
    box("Input", asText(status.user_message), { first: true }),
    status.result !== null ? box("Result", asText(status.result), { first: true }) : "",
    marks.length ? box(`Steps and tools (${marks.length})`, marks.map((mark) => `${mark.kind} ${mark.name ?? ""}: ${asText(mark.shown ?? "")}`).join("\n")) : "",
    failed.length ? box("Errors of attempts", failed.map(({ attempt, error }) => `${attempt}: ${error}`).join("\n")) : "",
    el("h2", {}, "Facts"),
    facts([
      ["Queue", status.queue], ["Priority", status.priority], ["Attempts", `${status.attempt}; it may fail ${counted(status.max_attempts, "time")}`],
      ["Worker", status.worker_id], ["Place in the queue", status.queue_position === null ? null : number(status.queue_position + 1)],
      ["Started", status.started_at && moment(status.started_at)], ["Ended", status.completed_at && moment(status.completed_at)],
      ["Took", status.completed_at && span(secondsBetween(status.created_at, status.completed_at))],
      ["Usage", status.usage && el("code", {}, Object.entries(status.usage).map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`).join(", "))],
      ["Metadata", Object.keys(status.metadata).length ? el("code", {}, JSON.stringify(status.metadata)) : null],
      ["Events", events.map(({ type, events: count }) => `${type} ${number(count)}`).join(", ")],
      ["Id", el("code", {}, status.message_id)],
    ]),
  );
}

/** Show what it streams; refresh the rest where it ends. */
function read(id, { text, streamed }, signal, refresh) {
  let content = "";
  let asked = false;
  const paint = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      streamed.hidden = content === "";
      const follows = text.scrollHeight - text.scrollTop - text.clientHeight < 60;
      render(text, content);
      if (follows) text.scrollTop = text.scrollHeight;
    });
  };
  followWhileSeen(`messages/${part(id)}/stream`, (type, data) => {
    if (["queued", "started", "retry"].includes(type)) content = "";
    if (type === "chunk") content += data.chunk ?? "";
    paint();
    if (["done", "error", "cancelled", "started", "parked", "retry"].includes(type)) refresh().catch(() => {});
  }, signal);
}
