// Failed messages, grouped by their error: redrive one, a group, or all.

import { call, get, may } from "./api.js";
import { action, ask, asText, counted, el, link, moment, number, put, shorten, shortId, table, tell } from "./show.js";

const REFRESH_SECONDS = 5;
const LOOKED_AT_MESSAGES = 1000;
const REDRIVEN_AT_ONCE = 50; // by one call, after which the rest can be stopped
const SHOWN_MESSAGES = 50;

export function deadLetters(root, at) {
  const said = el("p", { role: "status" });
  const place = el("div");
  const groups = el("div");
  root.append(el("div.title", {}, el("h1", {}, "Dead letters")), said, place, groups);
  const work = { busy: false };

  const refresh = async () => {
    if (work.busy) return;
    const page = await get("messages", { state: "failed", limit: LOOKED_AT_MESSAGES }, at.signal);
    const seen = page.messages.map(({ message_id }) => message_id).join();
    if (groups.dataset.seen === seen && groups.hasChildNodes()) return;
    groups.dataset.seen = seen;
    showGroups(groups, page, { place, said, work, refresh });
  };
  at.every(REFRESH_SECONDS, refresh, groups, ["messages"]);
}

/** What errors have in common: numbers, ids and quoted texts do not tell them apart. */
function likeness(error) {
  return shorten((error ?? "").split("\n")[0], 300).replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "…").replace(/\d+/g, "#");
}

function showGroups(groups, page, view) {
  const found = new Map();
  for (const message of page.messages) {
    const key = `${message.agent}\n${likeness(message.error)}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(message);
  }
  const kinds = [...found.values()].sort((a, b) => b.length - a.length);
  const shown = page.messages.length;
  if (kinds.length === 0) {
    put(groups, el("p.empty", {}, page.next_cursor ? "None of the newest failed messages can be shown to you." : "No message has failed for good."));
    return;
  }
  const open = new Set([...groups.querySelectorAll("details[open]")].map((one) => one.dataset.kind));
  const told = page.next_cursor
    ? `The newest ${number(shown)} failed messages, with ${counted(kinds.length, "kind of error", "kinds of errors")}; there are others`
    : `${counted(shown, "failed message")}, ${counted(kinds.length, "kind of error", "kinds of errors")}`;
  put(groups,
    el("p.actions", {}, el("span", {}, told), may.operate ? action(shown === 1 ? "Redrive it" : page.next_cursor ? "Redrive all" : `Redrive all ${number(shown)}`, () => redriveAll(view)) : ""),
    kinds.map((messages) => group(messages, view, open)));
}

function group(messages, view, open) {
  const [newest] = messages;
  const ids = messages.map(({ message_id }) => message_id);
  const title = newest.error || "No error was told.";
  const kind = `${newest.agent} ${likeness(newest.error)}`;
  return el("details.group", { open: open.has(kind), data: { kind } }, el("summary", {}, el("b.count", {}, number(messages.length)), el("span.error", {}, shorten(title, 200)), el("span.quiet", {}, newest.agent, ", last ", moment(newest.completed_at))),
    may.operate ? el("p.actions", {}, action(messages.length === 1 ? "Redrive it" : `Redrive these ${number(messages.length)}`, () => redriveEach(ids, `${counted(messages.length, "message")} of ${newest.agent}`, view))) : "",
    table(`Failed messages of ${newest.agent}`, [
      ["Message", ({ message_id }) => el("a", { href: `#messages/${message_id}`, title: message_id }, shortId(message_id))],
      ["Text", ({ user_message }) => shorten(asText(user_message), 160), { wide: true }],
      ["Thread", ({ thread_id }) => (thread_id ? link(`threads/${encodeURIComponent(thread_id)}`, thread_id) : "")],
      ["Attempts", ({ attempt }) => number(attempt), { number: true }],
      ["Failed", ({ completed_at }) => moment(completed_at)],
    ], messages.slice(0, SHOWN_MESSAGES), ""),
    messages.length > SHOWN_MESSAGES ? el("p.quiet", {}, `The newest ${SHOWN_MESSAGES} of ${number(messages.length)}.`) : "");
}

/** One after the other. */
async function redriveEach(ids, what, view) {
  if (ids.length > 1 && !(await ask(`Redrive ${what}?`, `${number(ids.length)} messages are queued again and run once more.`, "Redrive them"))) return null;
  return withProgress(ids.length, view, async (progress) => {
    for (const id of ids) {
      if (progress.stopped) break;
      try {
        await call("POST", `messages/${id}/redrive`);
        progress.add(1, 0);
      } catch (error) {
        if (![404, 409].includes(error.status)) throw error;
        progress.add(0, 1);
      }
    }
  });
}

/** All failed messages, also those that the page does not show. */
async function redriveAll(view) {
  let total = 0;
  for (let cursor = null; ;) {
    const page = await call("POST", "messages/redrive", { body: { limit: LOOKED_AT_MESSAGES, ...(cursor && { cursor }) } });
    total += page.matched;
    cursor = page.next_cursor;
    if (cursor === null) break;
  }
  if (total > 1 && !(await ask("Redrive all of them?", `${number(total)} messages are queued again and run once more.`, "Redrive them"))) return null;
  return withProgress(total, view, async (progress) => {
    for (let cursor = null; !progress.stopped;) {
      const page = await call("POST", "messages/redrive", { body: { preview: false, limit: REDRIVEN_AT_ONCE, ...(cursor && { cursor }) } });
      progress.add(page.changed, page.skipped);
      cursor = page.next_cursor;
      if (cursor === null) break;
    }
  });
}

/** Do it with the progress shown; it can be stopped. */
async function withProgress(total, { place, said, work, refresh }, act) {
  let done = 0;
  let left = 0;
  const bar = el("progress", { max: total, value: 0, "aria-label": "Redriven" });
  const count = el("span", {}, `0 of ${number(total)}`);
  const stop = el("button", { type: "button" }, "Stop");
  const progress = {
    stopped: false,
    add(changed, skipped) {
      done += changed;
      left += skipped;
      bar.value = done + left;
      count.textContent = `${number(done + left)} of ${number(total)}`;
    },
  };
  stop.addEventListener("click", () => { progress.stopped = true; });
  place.replaceChildren(el("p.actions", {}, bar, count, stop));
  work.busy = true;
  try {
    await act(progress);
    tell(said, `${counted(done, "message is", "messages are")} queued again${left ? `; ${number(left)} had changed meanwhile` : ""}${progress.stopped ? "; you stopped the rest" : ""}.`);
  } catch (error) {
    tell(said, error.message, true);
  } finally {
    work.busy = false;
    place.replaceChildren();
    await refresh();
  }
  return null;
}
