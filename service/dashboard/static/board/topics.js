// Topics and who reads them: offsets, lag, records; pause and seek.

import { call, get, part } from "./api.js";
import { action, asText, el, link, moment, number, shorten, table } from "./show.js";

const SECONDS = 5;
const RECORDS = 20;

export function topics(root, at) {
  const chosen = at.query.get("topic");
  const said = el("p", { role: "status" });
  const [list, records, readers] = [el("div"), el("div"), el("div")];
  root.append(el("div.title", {}, el("h1", {}, "Topics")), said, list, records, el("h2", {}, "Subscriptions"), readers);
  at.every(SECONDS, async () => {
    if (list.contains(document.activeElement)) return;
    const found = await get("topics", {}, at.signal);
    list.replaceChildren(table("Topics", [
      ["Topic", (topic) => link(`topics?topic=${part(topic.topic)}`, topic.topic), { wide: true }],
      ["Records", (topic) => number(topic.next_offset - topic.first_offset), { number: true }],
      ["Next offset", (topic) => number(topic.next_offset), { number: true }],
      ["Per minute", (topic) => number(topic.records_per_minute), { number: true }],
      ["Size", (topic) => `${number(topic.bytes / 1000)} kB`, { number: true }],
      ["Schema", (topic) => topic.schema_subject ?? ""],
      ["Lag", (topic) => topic.subscriptions.map(({ subscription, lag }) => `${subscription} ${number(lag)}`).join(", ") || "no reader", { wide: true }],
    ], found, "There are no topics yet."));
    if (chosen) await showRecords(records, found.find(({ topic }) => topic === chosen), at);
  }, list);
  const refresh = async () => {
    if (readers.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
    showReaders(readers, await get("subscriptions", {}, at.signal), said, refresh);
  };
  at.every(SECONDS, refresh, readers);
}

async function showRecords(place, topic, at) {
  if (!topic) {
    place.replaceChildren(el("p.empty", {}, "There is no such topic."));
    return;
  }
  const from = Math.max(topic.first_offset, topic.next_offset - RECORDS);
  const page = await get(`topics/${part(topic.topic)}/records`, { offset: from, limit: RECORDS }, at.signal);
  place.replaceChildren(el("h2", {}, `The newest records of ${topic.topic}`), table(`Records of ${topic.topic}`, [
    ["Offset", (record) => number(record.offset), { number: true }],
    ["Key", (record) => record.key ?? ""],
    ["Value", (record) => el("code", {}, shorten(asText(record.value), 300)), { wide: true }],
    ["Published", (record) => moment(record.created_at)],
  ], page.records.reverse(), "It has no records."));
}

function showReaders(place, found, said, refresh) {
  place.replaceChildren(table("Subscriptions", [
    ["Subscription", (one) => one.subscription, { wide: true }],
    ["Topics", (one) => one.topics.join(", ")],
    ["Agent", (one) => one.agent],
    ["Lag", (one) => number(one.lag), { number: true }],
    ["Open", (one) => number(one.open), { number: true }],
    ["Completed", (one) => number(one.completed), { number: true }],
    ["Failed", (one) => number(one.failed), { number: true }],
    ["Action", (one) => [
      one.paused ? el("span.badge", { data: { state: "paused" } }, "paused") : "", " ",
      action(one.paused ? "Resume" : "Pause", async () => {
        await call("POST", `subscriptions/${part(one.subscription)}/${one.paused ? "resume" : "pause"}`);
        await refresh();
        return `${one.subscription} ${one.paused ? "goes on" : "is paused"}.`;
      }, { out: said }), " ", seek(one, said, refresh),
    ], { wide: true }],
  ], found, "There are no subscriptions yet."));
}

function seek(one, said, refresh) {
  const field = el("input.narrow", { value: "earliest", "aria-label": `Where ${one.subscription} goes on: earliest, latest, an offset or a time` });
  return [field, " ", action("Seek", async () => {
    const text = field.value.trim();
    field.blur();
    await call("POST", `subscriptions/${part(one.subscription)}/seek`, { body: { to: /^\d+$/.test(text) ? Number(text) : text } });
    await refresh();
    return `${one.subscription} goes on at ${text}.`;
  }, { out: said })];
}
