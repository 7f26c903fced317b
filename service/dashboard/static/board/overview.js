// The overview: throughput, queues, workers, and what needs a look now.

import { all, call, get, page, part } from "./api.js";
import { chart } from "./charts.js";
import { showFirstSteps } from "./first_steps.js";
import { askHealth } from "./health.js";
import { action, address, counted, el, link, moment, more, number, put, secondsBetween, span, table } from "./show.js";

const RANGES = { "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800 };
const REFRESH_SECONDS = 5;
const FEW_MESSAGES = 10; // up to which the first steps are offered: one of them must not hide the others

export function overview(root, at) {
  const range = RANGES[at.query.get("range")] ? at.query.get("range") : "1h";
  const choice = el("p.choice", { role: "group", "aria-label": "Time" }, Object.keys(RANGES).map((name) =>
    el("a", { href: `#${address("overview", { range: name })}`, ...(name === range && { "aria-current": "true" }) }, name)));
  const [wrong, tiles, charts, queues, workers, first] = Array.from({ length: 6 }, () => el("div"));
  root.append(el("div.title", {}, el("h1", {}, "Overview"), choice), wrong, first, tiles, charts, el("h2", {}, "Queues"), queues, el("h2", {}, "Workers"), workers);

  at.every(REFRESH_SECONDS, async () => {
    const [{ reasons }, found] = await Promise.all([askHealth(at.signal), all("queues", at.signal)]);
    const paused = found.filter((queue) => queue.paused && queue.depth).map((queue) => `The queue ${queue.name} is paused, and ${counted(queue.depth, "message waits", "messages wait")} in it.`);
    showWrong(wrong, [...reasons, ...paused]);
    showQueues(queues, found);
    const messages = found.reduce((sum, { depth, in_flight, completed, failed, cancelled }) => sum + depth + in_flight + completed + failed + cancelled, 0);
    if (messages >= FEW_MESSAGES) first.replaceChildren();
    else if (first.dataset.agents !== "true") await showFirstSteps(first, at.signal);
  }, queues, ["messages"]);
  at.every(REFRESH_SECONDS, async () => {
    const { items: alive, cursor } = await page("workers", { cursor: at.query.get("workers") }, at.signal);
    showWorkers(workers, alive, more("overview", { range, workers: cursor }, "More workers", "workers"));
  }, workers);
  at.every(range === "1h" ? REFRESH_SECONDS : 30, async () => {
    const to = (Math.floor(Date.now() / (REFRESH_SECONDS * 1000)) + 1) * REFRESH_SECONDS * 1000; // the same for all pages of this moment
    const stats = await get("stats", { from: new Date(to - RANGES[range] * 1000).toISOString(), to: new Date(to).toISOString() }, at.signal);
    showStats(tiles, charts, stats, range);
  }, charts, ["messages"]);
}

function showWrong(place, reasons) {
  const seen = reasons.join("\n");
  if (place.dataset.seen === seen && place.hasChildNodes()) return;
  place.dataset.seen = seen;
  place.replaceChildren(reasons.length
    ? el("section.wrong", { "aria-label": "What is wrong now" }, el("h2", {}, "Look at this"), el("ul", {}, reasons.map((text) => el("li", {}, text, " ", where(text)))))
    : el("p.fine", {}, "Nothing keeps messages waiting."));
}

function where(text) {
  const queue = text.match(/[Tt]he queue ([a-z][a-z0-9_]*)/)?.[1];
  return queue ? link(address("messages", { state: "queued", queue }), "Show them") : "";
}

function showStats(tiles, charts, stats, range) {
  const sum = (value) => stats.steps.reduce((total, step) => total + (value(step) ?? 0), 0);
  const completed = sum((step) => step.completed);
  const failed = sum((step) => step.failed);
  const share = completed + failed ? `${number(Math.round((completed / (completed + failed)) * 1000) / 10)} %` : "–";
  const tile = (name, value, more = {}) => el("div.tile", more, el("b", {}, value), el("span", {}, name));
  tiles.replaceChildren(el("div.tiles", {},
    tile("submitted", number(sum((step) => step.submitted))),
    tile("completed", number(completed)),
    tile("failed", number(failed), failed ? { data: { state: "failed" } } : {}),
    tile("succeed", share),
    tile("retries", number(sum((step) => step.retried))),
    tile("lost", number(sum((step) => step.lost)), { title: "Attempts whose worker died" }),
    tile("tokens", number(sum((step) => step.input_tokens + step.output_tokens))),
    tile("cost", number(sum((step) => step.cost)))));
  const per = stats.step_seconds === 60 ? "minute" : span(stats.step_seconds);
  charts.replaceChildren(el("div.charts", { role: "group", "aria-label": `The last ${range}` },
    chart(`Messages per ${per}`, stats, [
      { name: "completed", value: (step) => step.completed, className: "s1" },
      { name: "failed", value: (step) => step.failed, className: "s2" },
      { name: "cancelled", value: (step) => step.cancelled, className: "s4" },
    ], { kind: "bars", format: number }),
    chart("Wait until the start", stats, percentiles("wait"), { format: span }),
    chart("Time of an attempt", stats, percentiles("run"), { format: span }),
    chart("Until the first chunk", stats, percentiles("first_chunk"), { format: span }),
    chart(`Tokens per ${per}`, stats, [
      { name: "in", value: (step) => step.input_tokens, className: "s3" },
      { name: "out", value: (step) => step.output_tokens, className: "s1" },
    ], { kind: "bars", format: number }),
    chart(`Cost per ${per}`, stats, [{ name: "cost", value: (step) => step.cost, className: "s3" }], { kind: "bars", format: number })));
}

const percentiles = (of) => ["p50", "p95", "p99"].map((name, index) => ({ name, value: (step) => step[of][name], className: ["s1", "s3", "s2"][index] }));

function showQueues(place, queues) {
  put(place, table("Queues", [
    ["Queue", (queue) => link(address("messages", { queue: queue.name, state: "open" }), queue.name)],
    ["Queued", (queue) => number(queue.depth), { number: true }],
    ["Ready", (queue) => number(queue.visible), { number: true }],
    ["Oldest", (queue) => span(queue.oldest_age_seconds), { number: true }],
    ["Running", (queue) => number(queue.in_flight), { number: true }],
    ["Failed", (queue) => number(queue.failed), { number: true }],
    ["Per minute", (queue) => number(queue.throughput_per_minute), { number: true }],
    ["Workers", (queue) => number(queue.workers), { number: true }],
    ["Action", (queue) => pauseButton(place, queue)],
  ], queues, "There are no queues yet: start a worker."));
}

function pauseButton(place, queue) {
  const verb = queue.paused ? "resume" : "pause";
  return [queue.paused ? el("span.badge", { data: { state: "paused" } }, "paused") : "", " ", action(queue.paused ? "Resume" : "Pause", async () => {
    await call("POST", `queues/${part(queue.name)}/${verb}`);
    showQueues(place, await all("queues"));
    return `The queue ${queue.name} ${queue.paused ? "goes on" : "is paused"}.`;
  })];
}

function showWorkers(place, workers, next) {
  put(place, table("Workers", [
    ["Worker", (worker) => worker.worker_id, { wide: true }],
    ["Queues", (worker) => worker.queues.join(", ")],
    ["Load", (worker) => load(worker)],
    ["Memory", (worker) => (worker.memory_bytes === null ? "–" : `${number(Math.round(worker.memory_bytes / 1_000_000))} MB`), { number: true }],
    ["Started", (worker) => moment(worker.started_at)],
    ["Heartbeat", (worker) => {
      const silent = secondsBetween(worker.heartbeat_at, new Date());
      return el("span", { className: silent > 10 ? "bad" : "" }, silent > 10 ? `silent for ${span(silent)}` : "alive");
    }],
  ], workers, "No worker is alive: messages wait until one starts."), next);
}

function load({ in_flight, concurrency }) {
  const meter = el("meter", { max: concurrency, value: in_flight, "aria-label": "Messages that it runs" });
  return [meter, ` ${in_flight} of ${concurrency}`];
}
