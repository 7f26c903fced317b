// The agents: how they do, and what they declare.

import { call, get, may, page, part } from "./api.js";
import { action, address, asText, el, facts, link, moment, more, number, put, span, table } from "./show.js";

const REFRESH_SECONDS = 15;
const HOUR_MILLISECONDS = 3_600_000;

const NOTHING = { completed: 0, failed: 0, retried: 0, run: null, wait: null, input_tokens: 0, output_tokens: 0, cost: 0 };

export function agents(root, at) {
  const [shown, keptShown] = ["cursor", "instances"].map((name) => at.query.get(name));
  const list = el("div");
  const [said, kept] = [el("p", { role: "status" }), el("div")];
  const since = el("span.quiet");
  root.append(el("div.title", {}, el("h1", {}, "Agents"), since), list);
  if (may.operate) root.append(el("h2", {}, "Warm instances"), said, kept);
  at.every(REFRESH_SECONDS, async () => {
    const begin = new Date(Math.floor(Date.now() / HOUR_MILLISECONDS - 24) * HOUR_MILLISECONDS); // the service keeps figures of whole hours
    const [{ items: known, cursor }, stats] = await Promise.all([page("agents", { cursor: shown }, at.signal), get("stats", { from: begin.toISOString(), whole: true, by: "agent" }, at.signal).catch(() => null)]);
    since.textContent = stats ? `figures since ${begin.toLocaleString([], { weekday: "long", hour: "2-digit", minute: "2-digit" })}` : "";
    const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.name));
    put(list, known.length ? el("div.cards", {}, known.map((agent) => card(agent, stats, open))) : el("p.empty", {}, "No worker has registered an agent yet."), more("agents", { cursor, instances: keptShown }, "More agents"));
  }, list);
  const refresh = async () => {
    const { items: found, cursor } = await page("instances", { cursor: keptShown }, at.signal);
    showInstances(kept, found, more("agents", { cursor: shown, instances: cursor }, "More instances", "instances"), said, refresh);
  };
  if (may.operate) at.every(REFRESH_SECONDS, refresh, kept);
}

function card(agent, stats, open) {
  const found = stats?.steps.find(({ name }) => name === agent.agent) ?? NOTHING;
  const over = found.completed + found.failed;
  const { settings } = agent;
  return el("section.card", { "aria-label": agent.agent },
    el("h2", {}, link(address("messages", { agent: agent.agent }), agent.agent), agent.is_default ? el("span.badge", {}, "default") : ""),
    agent.description ? el("p", {}, agent.description) : "",
    settings.framework ? el("p.quiet", {}, settings.framework) : "",
    stats === null ? "" : facts([
      ["Succeed", over ? `${number(Math.round((found.completed / over) * 1000) / 10)} %` : "–"],
      ["Completed", number(found.completed)],
      ["Failed", el("a", { href: `#${address("messages", { agent: agent.agent, state: "failed" })}` }, number(found.failed))],
      ["Retries", number(found.retried)],
      ["Run p50, p95", both(found.run)],
      ["Wait p50, p95", both(found.wait)],
      ["Tokens", number(found.input_tokens + found.output_tokens)],
      ["Cost", number(found.cost)],
    ]),
    el("details", { open: open.has(agent.agent), data: { name: agent.agent } }, el("summary", {}, "Settings"),
      facts([
        ["Queue", agent.queue], ["Timeout", span(agent.timeout_seconds)], ["Attempts", number(agent.max_attempts)], ["Registered", moment(agent.registered_at)],
        ...Object.entries(settings).map(([name, value]) => [name, asText(value)]),
      ]),
      agent.input ? el("pre", { tabIndex: 0 }, asText(agent.input)) : el("p.quiet", {}, "It takes text.")));
}

const both = (found) => (found && found.p50 !== null ? `${span(found.p50)}, ${span(found.p95)}` : "–");

function showInstances(place, found, next, said, refresh) {
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
  ], found, "No worker keeps a warm instance."), next);
}
