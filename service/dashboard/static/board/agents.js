// The agents: how they do, and what they declare.

import { call, get, may, part } from "./api.js";
import { action, address, asText, el, facts, link, moment, number, put, span, table } from "./show.js";

const SECONDS = 15;
const DAY_SECONDS = 86_400;

export function agents(root, at) {
  const list = el("div");
  const [said, kept] = [el("p", { role: "status" }), el("div")];
  root.append(el("div.title", {}, el("h1", {}, "Agents"), el("span.quiet", {}, "figures of the last 24 hours")), list);
  if (may.operate) root.append(el("h2", {}, "Warm instances"), said, kept);
  at.every(SECONDS, async () => {
    const begin = new Date(Date.now() - DAY_SECONDS * 1000).toISOString();
    const [known, stats] = await Promise.all([get("agents", {}, at.signal), get("stats", { from: begin, step: DAY_SECONDS, by: "agent" }, at.signal).catch(() => null)]);
    const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.name));
    put(list, known.length ? el("div.cards", {}, known.map((agent) => card(agent, stats, open))) : el("p.empty", {}, "No worker has registered an agent yet."));
  }, list);
  const refresh = async () => showInstances(kept, await get("instances", {}, at.signal), said, refresh);
  if (may.operate) at.every(SECONDS, refresh, kept);
}

function card(agent, stats, open) {
  const steps = (stats?.steps ?? []).filter(({ name }) => name === agent.agent);
  const sum = (value) => steps.reduce((total, step) => total + value(step), 0);
  const over = sum((step) => step.completed + step.failed);
  const last = steps.at(-1);
  const { settings } = agent;
  return el("section.card", { "aria-label": agent.agent },
    el("h2", {}, link(address("messages", { agent: agent.agent }), agent.agent), agent.is_default ? el("span.badge", {}, "default") : ""),
    agent.description ? el("p", {}, agent.description) : "",
    settings.framework ? el("p.quiet", {}, settings.framework) : "",
    stats === null ? "" : facts([
      ["Succeed", over ? `${number(Math.round((sum((step) => step.completed) / over) * 1000) / 10)} %` : "–"],
      ["Completed", number(sum((step) => step.completed))],
      ["Failed", el("a", { href: `#${address("messages", { agent: agent.agent, state: "failed" })}` }, number(sum((step) => step.failed)))],
      ["Retries", number(sum((step) => step.retried))],
      ["Run p50, p95", both(last?.run)],
      ["Wait p50, p95", both(last?.wait)],
      ["Tokens", number(sum((step) => step.input_tokens + step.output_tokens))],
      ["Cost", number(sum((step) => step.cost))],
    ]),
    el("details", { open: open.has(agent.agent), data: { name: agent.agent } }, el("summary", {}, "Settings"),
      facts([
        ["Queue", agent.queue], ["Timeout", span(agent.timeout_seconds)], ["Attempts", number(agent.max_attempts)], ["Registered", moment(agent.registered_at)],
        ...Object.entries(settings).map(([name, value]) => [name, asText(value)]),
      ]),
      agent.input ? el("pre", { tabIndex: 0 }, asText(agent.input)) : el("p.quiet", {}, "It takes text.")));
}

const both = (found) => (found && found.p50 !== null ? `${span(found.p50)}, ${span(found.p95)}` : "–");

function showInstances(place, found, said, refresh) {
  put(place, table("Warm instances", [
    ["Agent", ({ agent }) => agent],
    ["Thread", ({ thread_id }) => link(`threads/${part(thread_id)}`, thread_id), { wide: true }],
    ["Worker", ({ worker_id }) => worker_id, { wide: true }],
    ["Made", ({ made_at }) => moment(made_at)],
    ["Action", ({ agent, thread_id }) => action("Drop", async () => {
      await call("DELETE", `instances/${part(agent)}/${part(thread_id)}`);
      await refresh();
      return "Its worker was told. The next message of the thread makes a new one.";
    }, { out: said })],
  ], found, "No worker keeps a warm instance."));
}
