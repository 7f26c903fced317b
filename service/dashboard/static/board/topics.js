// Topics and who reads them: offsets, lag, records; pause and seek.

import { call, get, may, page, part } from "./api.js";
import { action, address, ask, asText, el, link, moment, more, number, put, shorten, table } from "./show.js";

const REFRESH_SECONDS = 5;
const SCHEMA_SECONDS = 30;
const SHOWN_RECORDS = 20;
const PAGE_SUBJECTS = 100;

export function topics(root, at) {
  const [chosen, cursor, readersCursor, subjectsFrom] = ["topic", "cursor", "readers", "subjects"].map((name) => at.query.get(name));
  const shown = { topic: chosen, cursor, readers: readersCursor, subjects: subjectsFrom };
  const offset = Number(subjectsFrom) || 0;
  const said = el("p", { role: "status" });
  const [list, records, readers, schemas] = [el("div"), el("div"), el("div"), el("div")];
  root.append(el("div.title", {}, el("h1", {}, "Topics")), said, list, records, el("h2", {}, "Subscriptions"), readers, schemas);
  at.every(REFRESH_SECONDS, async () => {
    const { items: found, cursor: next } = await page("topics", { cursor }, at.signal);
    put(list, table("Topics", [
      ["Topic", (topic) => link(address("topics", { ...shown, topic: topic.topic }), topic.topic), { wide: true }],
      ["Records", (topic) => number(topic.next_offset - topic.first_offset), { number: true }],
      ["Next offset", (topic) => number(topic.next_offset), { number: true }],
      ["Per minute", (topic) => number(topic.records_per_minute), { number: true }],
      ["Size", (topic) => `${number(topic.bytes / 1000)} kB`, { number: true }],
      ["Schema", (topic) => topic.schema_subject ?? ""],
      ["Lag", (topic) => topic.subscriptions.map(({ subscription, lag }) => `${subscription} ${number(lag)}`).join(", ") || "no reader", { wide: true }],
    ], found, "There are no topics yet."), more("topics", { ...shown, cursor: next }, "More topics"));
    if (chosen) await showRecords(records, found.find(({ topic }) => topic === chosen) ?? (await one(chosen, at)), at);
  }, list, ["topics", "messages"]);
  const refresh = async () => {
    const { items: found, cursor: next } = await page("subscriptions", { cursor: readersCursor }, at.signal);
    showReaders(readers, found, more("topics", { ...shown, readers: next }, "More subscriptions", "readers"), said, refresh);
  };
  at.every(REFRESH_SECONDS, refresh, readers, ["topics", "messages"]);
  at.every(SCHEMA_SECONDS, async () => {
    const found = await get("schema-registry/subjects", { offset, limit: PAGE_SUBJECTS + 1 }, at.signal).catch((error) => {
      if (error.status !== 403) throw error;
      return null; // a key with restrictions sees no schemas
    });
    if (found === null) return;
    if (schemas.dataset.seen === found.join() && schemas.hasChildNodes()) return;
    schemas.dataset.seen = found.join();
    const subjects = found.slice(0, PAGE_SUBJECTS);
    const next = more("topics", { ...shown, subjects: found.length > PAGE_SUBJECTS ? offset + PAGE_SUBJECTS : null }, "More schemas", "subjects");
    schemas.replaceChildren(el("h2", {}, "Schemas"), ...(subjects.length ? subjects.map((subject) => schema(subject, at)) : [el("p.empty", {}, "No schema is registered yet.")]), next);
  }, schemas);
}

/** A topic; null where it is unknown. */
async function one(name, at) {
  try {
    return await get(`topics/${part(name)}`, {}, at.signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    return null;
  }
}

/** A subject, whose newest version is read when it is opened. */
function schema(subject, at) {
  const box = el("details", {}, el("summary", {}, subject));
  box.addEventListener("toggle", async () => {
    if (!box.open || box.childElementCount > 1) return;
    const path = `schema-registry/subjects/${part(subject)}/versions`;
    try {
      const [newest, versions] = await Promise.all([get(`${path}/latest`, {}, at.signal), get(path, {}, at.signal)]);
      const text = newest.schemaType === "PROTOBUF" ? newest.schema : asText(JSON.parse(newest.schema));
      box.append(el("p.quiet", {}, `${newest.schemaType ?? "JSON"}, id ${newest.id}, version ${newest.version} of ${versions.join(", ")}`), el("pre", { tabIndex: 0 }, text));
    } catch (error) {
      if (error.name !== "AbortError") box.append(el("p.bad", { role: "alert" }, error.message));
    }
  });
  return box;
}

async function showRecords(place, topic, at) {
  if (!topic) {
    place.replaceChildren(el("p.empty", {}, "There is no such topic."));
    return;
  }
  const from = Math.max(topic.first_offset, topic.next_offset - SHOWN_RECORDS);
  const newest = await get(`topics/${part(topic.topic)}/records`, { offset: from, limit: SHOWN_RECORDS }, at.signal);
  put(place, el("h2", {}, `The newest records of ${topic.topic}`), table(`Records of ${topic.topic}`, [
    ["Offset", (record) => number(record.offset), { number: true }],
    ["Key", (record) => record.key ?? ""],
    ["Value", (record) => el("code", {}, shorten(asText(record.value), 300)), { wide: true }],
    ["Headers", (record) => (Object.keys(record.headers ?? {}).length ? el("code", {}, shorten(JSON.stringify(record.headers), 200)) : "")],
    ["Schema", (record) => record.schema_id ?? ""],
    ["Published", (record) => moment(record.created_at)],
  ], newest.records.reverse(), "It has no records."));
}

function showReaders(place, found, next, said, refresh) {
  put(place, table("Subscriptions", [
    ["Subscription", (one) => one.subscription, { wide: true }],
    ["Topics", (one) => one.topics.join(", ")],
    ["Agent", (one) => one.agent],
    ["Delivery", (one) => one.delivery.replaceAll("_", " ")],
    ["Lag", (one) => el("span", { title: one.positions.map(({ topic, next_offset, lag }) => `${topic}: at ${next_offset}, lag ${lag}`).join("\n") }, number(one.lag)), { number: true }],
    ["Open", (one) => `${number(one.open)} of ${number(one.max_in_flight)}`, { number: true }],
    ["Completed", (one) => number(one.completed), { number: true }],
    ["Failed", (one) => (one.failed ? link(address("messages", { agent: one.agent, state: "failed" }), number(one.failed)) : "0"), { number: true }],
    ["Action", (one) => !may.operate ? "" : [
      one.paused ? el("span.badge", { data: { state: "paused" } }, "paused") : "", " ",
      action(one.paused ? "Resume" : "Pause", async () => {
        await call("POST", `subscriptions/${part(one.subscription)}/${one.paused ? "resume" : "pause"}`);
        await refresh();
        return `${one.subscription} ${one.paused ? "goes on" : "is paused"}.`;
      }, { out: said }), " ", seek(one, said, refresh),
    ], { wide: true }],
  ], found, "There are no subscriptions yet."), next);
}

function seek(one, said, refresh) {
  const field = el("input.narrow", { value: "earliest", "aria-label": `Where ${one.subscription} goes on: earliest, latest, an offset or a time` });
  return [field, " ", action("Seek", async () => {
    const text = field.value.trim();
    if (!(await ask(`Move ${one.subscription} to ${text}?`, "Records behind the new place are delivered again, as new messages; those before it are left out.", "Move it"))) return null;
    await call("POST", `subscriptions/${part(one.subscription)}/seek`, { body: { to: /^\d+$/.test(text) ? Number(text) : text } });
    await refresh();
    return `${one.subscription} goes on at ${text}.`;
  }, { out: said })];
}
