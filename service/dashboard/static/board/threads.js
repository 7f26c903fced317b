// The threads, and one of them as a conversation.

import { render } from "../chat/markdown.js";
import { call, get, may, page, part } from "./api.js";
import { action, address, ask, asText, badge, el, facts, link, moment, number, put, shorten, table } from "./show.js";

const REFRESH_SECONDS = 5;
const PAGE_ITEMS = 50;
const MOST_LOOKS = 16;

export function threads(root, at) {
  const list = el("div");
  const more = el("p");
  const q = at.query.get("q") ?? "";
  const open = el("form.filter", { role: "search", "aria-label": "Search threads" });
  const field = el("input", { id: "thread-text", type: "search", autocomplete: "off", value: q });
  open.append(el("div", {}, el("label", { htmlFor: "thread-text" }, "Id, metadata or last message"), field), el("div.buttons", {}, el("button.primary", {}, "Search")));
  open.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address("threads", { q: field.value.trim() });
  });
  root.append(el("div.title", {}, el("h1", {}, "Threads")), open, list, more);
  let limit = PAGE_ITEMS;
  let looks = 1; // calls of a search, each of which looks at a part of the threads
  const refresh = async () => {
    const rows = [];
    let [cursor, until] = [null, null];
    for (let look = 0; look < looks && rows.length < limit; look += 1) {
      const found = await page("threads", { limit: limit - rows.length, q, cursor }, at.signal);
      rows.push(...found.items);
      ({ cursor, until } = found);
      if (!cursor) break;
    }
    put(list, table("Threads", [
      ["Thread", (row) => link(`threads/${part(row.thread_id)}`, row.thread_id), { wide: true }],
      ["Last message", (row) => shorten(row.last_message_preview ?? "", 120), { wide: true }],
      ["Messages", (row) => number(row.message_count), { number: true }],
      ["Last active", (row) => moment(row.last_activity)],
    ], rows, until ? `None of the threads that were looked at ${q ? "has this text" : "is shown here"}.` : q ? "No thread has this text." : "There are no threads yet."));
    const isFull = rows.length >= limit;
    put(more,
      until && !isFull ? el("span", {}, "Looked at the threads that have been active since ", moment(until), ". ") : "",
      cursor && (isFull ? limit < 1000 : looks < MOST_LOOKS) ? action(isFull ? "Show more" : "Look further", async () => {
        if (isFull) limit = Math.min(limit * 2, 1000);
        else looks = Math.min(looks * 2, MOST_LOOKS);
        await refresh();
      }) : "");
  };
  // A search that looked further is repeated only when someone asks: it takes many calls.
  at.every(REFRESH_SECONDS, async () => looks > 1 || refresh(), list, ["messages"]);
}

export function thread(root, at, id) {
  const said = el("p", { role: "status" });
  const [head, list] = [el("div"), el("ol.conversation", { "aria-label": "Conversation" })];
  root.append(el("p.back", {}, link("threads", "Threads")), head, said, list);
  at.every(REFRESH_SECONDS, async () => {
    const [found, usage, page] = await Promise.all([get(`threads/${part(id)}`, {}, at.signal), get(`threads/${part(id)}/usage`, {}, at.signal), get(`messages`, { thread_id: id, limit: 100 }, at.signal)]);
    showHead(head, found, usage, said);
    const seen = JSON.stringify(page.messages);
    if (list.dataset.seen === seen) return;
    list.dataset.seen = seen;
    const whole = await get(`threads/${part(id)}/messages`, { limit: 100, cursor: Math.max(0, found.message_count - 100) }, at.signal);
    list.replaceChildren(...whole.messages.map(exchange));
  }, head, ["messages"]);
}

function showHead(place, found, usage, said) {
  const states = Object.entries(found.states).filter(([, count]) => count).map(([state, count]) => `${number(count)} ${state}`).join(", ");
  put(place,
    el("div.title", {}, el("h1", {}, found.thread_id), el("a.button", { href: `chat#${part(found.thread_id)}` }, "Open the chat")),
    facts([
      ["Messages", states || "none"], ["Created", moment(found.created_at)], ["Last active", moment(found.last_activity)],
      ["Usage", Object.keys(usage.usage).length ? el("code", {}, Object.entries(usage.usage).map(([name, value]) => `${name} ${number(value)}`).join(", ")) : null],
      ["Metadata", Object.keys(found.metadata).length ? el("code", {}, JSON.stringify(found.metadata)) : null],
      ["Memory", found.memory ? el("code", {}, shorten(JSON.stringify(found.memory), 300)) : null],
    ]),
    el("p.actions", {}, link(address("messages", { thread_id: found.thread_id }), "Its messages as a list"), may.operate ? action("Delete the thread", async () => {
      if (!(await ask("Delete this thread?", "Its messages, events and dead letters are deleted. Running messages are cancelled.", "Delete the thread"))) return null;
      await call("DELETE", `threads/${part(found.thread_id)}`);
      location.hash = "threads";
      return "The thread is deleted.";
    }, { danger: true, out: said }) : ""),
  );
}

function exchange(status) {
  const answer = el("div.answer.text");
  if (typeof status.result === "string") render(answer, status.result);
  else if (status.result !== null) answer.append(el("pre", {}, asText(status.result)));
  else if (status.error) answer.append(el("p.bad", {}, status.error));
  return el("li", {}, el("p.request", {}, shorten(asText(status.user_message), 4000)), el("p.quiet", {}, status.agent, " ", badge(status.state, status.hold), " ", el("a", { href: `#messages/${status.message_id}` }, moment(status.created_at))), answer);
}
