// Webhooks: endpoints with their last deliveries; test, disable and enable them.

import { call, get, part } from "./api.js";
import { action, el, link, moment, put, table } from "./show.js";

const REFRESH_SECONDS = 5;

export function webhooks(root, at) {
  const said = el("p", { role: "status" });
  const list = el("div");
  const deliveries = el("p", {}, link("messages?queue=webhooks", "All deliveries"), " · ", link("messages?queue=webhooks&state=failed", "Deliveries that failed"));
  root.append(el("div.title", {}, el("h1", {}, "Webhooks"), el("span.quiet", {}, "the servers that are told when messages end")), said, list, deliveries);
  const refresh = async () => show(list, await get("webhooks", {}, at.signal), said, refresh);
  at.every(REFRESH_SECONDS, refresh, list, ["messages"]);
}

function show(place, found, said, refresh) {
  put(place, table("Webhooks", [
    ["Address", ({ url, description }) => [el("code", {}, url), description && ` ${description}`], { wide: true }],
    ["Events", ({ events, format }) => events.join(", ") + (format === "standard" ? "" : ` (${format})`), { wide: true }],
    ["State", ({ enabled, disabled_reason }) => (enabled ? "enabled" : `disabled. ${disabled_reason ?? ""}`), { wide: true }],
    ["Last delivery", ({ last_delivery: last }) => (last ? [link(`messages/${last.message_id}`, last.error ?? "delivered"), " ", moment(last.at)] : "none yet"), { wide: true }],
    ["Action", ({ webhook_id, enabled }) => [
      action("Test", async () => {
        const { message_id } = await call("POST", `webhooks/${part(webhook_id)}/test`);
        await refresh();
        return `A test event is on its way: ${message_id}.`;
      }, { out: said }), " ",
      action(enabled ? "Disable" : "Enable", async () => {
        await call("PATCH", `webhooks/${part(webhook_id)}`, { body: { enabled: !enabled } });
        await refresh();
        return enabled ? "The webhook is disabled." : "The webhook is enabled.";
      }, { out: said }),
    ]],
  ], found, "There are no webhooks: treadle webhooks create makes one."));
}
