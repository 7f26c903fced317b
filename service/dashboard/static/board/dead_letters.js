// Failed messages, grouped by their error: redrive one, a group, or all.

import { call, get, may } from "./api.js";
import { action, ask, asText, counted, el, link, moment, number, shorten, shortId, table, tell } from "./show.js";

const SECONDS = 10;
const LOOKED_AT = 1000;
const SHOWN = 50;

export function deadLetters(root, at) {
  const said = el("p", { role: "status" });
  const progress = el("div");
  const groups = el("div");
  root.append(el("div.title", {}, el("h1", {}, "Dead letters")), said, progress, groups);
  const work = { busy: false };

  const refresh = async () => {
    if (work.busy || groups.contains(document.activeElement)) return;
    const page = await get("messages", { state: "failed", limit: LOOKED_AT }, at.signal);
    const seen = page.messages.map(({ message_id }) => message_id).join();
    if (groups.dataset.seen === seen && groups.hasChildNodes()) return;
    groups.dataset.seen = seen;
    showGroups(groups, page, (ids, what) => redriveAll(ids, what, { work, progress, said, refresh }));
  };
  at.every(SECONDS, refresh, groups);
}

/** What errors have in common: numbers, ids and quoted texts do not tell them apart. */
function likeness(error) {
  return shorten((error ?? "").split("\n")[0], 300).replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "…").replace(/\d+/g, "#");
}

function showGroups(place, page, redrive) {
  const found = new Map();
  for (const message of page.messages) {
    const key = `${message.agent}\n${likeness(message.error)}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(message);
  }
  const groups = [...found.values()].sort((a, b) => b.length - a.length);
  const all = page.messages.map(({ message_id }) => message_id);
  if (groups.length === 0) {
    place.replaceChildren(el("p.empty", {}, page.next_cursor ? "None of the newest failed messages can be shown to you." : "No message has failed for good."));
    return;
  }
  place.replaceChildren(
    el("p.actions", {}, el("span", {}, page.next_cursor ? `${number(all.length)} or more failed messages, ${counted(groups.length, "kind")} of errors` : `${counted(all.length, "failed message")}, ${counted(groups.length, "kind of error", "kinds of errors")}`), may.operate ? action(all.length === 1 ? "Redrive it" : `Redrive all ${number(all.length)}`, () => redrive(all, "all of them")) : ""),
    ...groups.map((messages) => group(messages, redrive)),
  );
}

function group(messages, redrive) {
  const [newest] = messages;
  const ids = messages.map(({ message_id }) => message_id);
  const title = newest.error || "No error was told.";
  return el("details.group", { open: false }, el("summary", {}, el("b.count", {}, number(messages.length)), el("span.error", {}, shorten(title, 200)), el("span.quiet", {}, newest.agent, ", last ", moment(newest.completed_at))),
    may.operate ? el("p.actions", {}, action(messages.length === 1 ? "Redrive it" : `Redrive these ${number(messages.length)}`, () => redrive(ids, `${counted(messages.length, "message")} of ${newest.agent}`))) : "",
    table(`Failed messages of ${newest.agent}`, [
      ["Message", ({ message_id }) => el("a", { href: `#messages/${message_id}`, title: message_id }, shortId(message_id))],
      ["Text", ({ user_message }) => shorten(asText(user_message), 160), { wide: true }],
      ["Thread", ({ thread_id }) => (thread_id ? link(`threads/${encodeURIComponent(thread_id)}`, thread_id) : "")],
      ["Attempts", ({ attempt }) => number(attempt), { number: true }],
      ["Failed", ({ completed_at }) => moment(completed_at)],
    ], messages.slice(0, SHOWN), ""),
    messages.length > SHOWN ? el("p.quiet", {}, `The newest ${SHOWN} of ${number(messages.length)}.`) : "");
}

/** One after the other, with the progress shown; it can be stopped. */
async function redriveAll(ids, what, { work, progress, said, refresh }) {
  if (ids.length > 1 && !(await ask(`Redrive ${what}?`, `${number(ids.length)} messages are queued again and run once more.`, "Redrive them"))) return null;
  let stopped = false;
  let done = 0;
  let left = 0;
  const bar = el("progress", { max: ids.length, value: 0, "aria-label": "Redriven" });
  const count = el("span", {}, `0 of ${ids.length}`);
  const stop = el("button", { type: "button" }, "Stop");
  stop.addEventListener("click", () => { stopped = true; });
  progress.replaceChildren(el("p.actions", {}, bar, count, stop));
  work.busy = true;
  try {
    for (const id of ids) {
      if (stopped) break;
      try {
        await call("POST", `messages/${id}/redrive`);
        done += 1;
      } catch (error) {
        if (![404, 409].includes(error.status)) throw error;
        left += 1;
      }
      bar.value = done + left;
      count.textContent = `${number(done + left)} of ${number(ids.length)}`;
    }
    tell(said, `${counted(done, "message is", "messages are")} queued again${left ? `; ${number(left)} had changed meanwhile` : ""}${stopped ? "; you stopped the rest" : ""}.`);
  } catch (error) {
    tell(said, error.message, true);
  } finally {
    work.busy = false;
    progress.replaceChildren();
    document.activeElement?.blur();
    await refresh();
  }
  return null;
}
