// The list of messages: filtered, and live while its first page is shown.

import { all, get } from "./api.js";
import { action, address, announce, asText, badge, counted, el, link, moment, put, secondsBetween, shorten, shortId, span, table } from "./show.js";

const REFRESH_SECONDS = 3;
const PAGE_ITEMS = 50;
const MAX_LOOKS = 10;
const STATES = ["", "open", "queued", "processing", "completed", "failed", "cancelled"];
const TEXTS = [["queue", "Queue"], ["thread_id", "Thread"], ["q", "Text"], ["error", "Error"]];

export function messages(root, at) {
  const filter = Object.fromEntries([...at.query].filter(([, value]) => value));
  const list = el("div");
  const more = el("p");
  root.append(el("div.title", {}, el("h1", {}, "Messages")), form(filter, at), list, more);
  let pages = 1;
  let restUntil = 0; // a filter that few messages satisfy takes many calls, so it is not asked again soon
  at.every(REFRESH_SECONDS, async () => {
    if (pages > 1 || Date.now() < restUntil) return; // do not move what a person reads
    const page = await look(filter, undefined, at.signal, filter.q ? 1 : MAX_LOOKS); // a text is dear to look for
    restUntil = Date.now() + (page.calls - 1) * REFRESH_SECONDS * 1000;
    showRows(list, page.messages);
    showMore(page);
  }, list, ["messages"]);

  function showMore(page) {
    if (page.next_cursor === null) {
      put(more);
      return;
    }
    const sparse = page.messages.length < PAGE_ITEMS; // the calls ended before the page was full
    const until = new Date(page.searched_until).toLocaleString();
    const button = action(sparse ? "Look further back" : "Show older ones", async () => {
      pages += 1;
      const next = await look(filter, page.next_cursor, at.signal);
      const rows = [...(list.rows ?? []), ...next.messages];
      showRows(list, rows);
      showMore(next);
      announce(counted(rows.length, "message"));
    });
    button.dataset.cursor = page.next_cursor; // another place is another button
    put(more, button, sparse ? el("span.quiet", {}, ` All since ${until} were looked at.`) : "");
  }
}

/** A page of messages. One call looks at a part of them only, so a page that is not full takes several. */
async function look(filter, cursor, signal, looks = MAX_LOOKS) {
  const found = [];
  let page = { next_cursor: cursor };
  let calls = 0;
  for (; calls < looks && found.length < PAGE_ITEMS && page.next_cursor !== null; calls += 1) {
    page = await get("messages", { ...filter, limit: PAGE_ITEMS - found.length, cursor: page.next_cursor }, signal);
    found.push(...page.messages);
  }
  return { ...page, messages: found, calls };
}

function showRows(list, rows) {
  list.rows = rows;
  put(list, table("Messages", [
    ["Message", (row) => el("a", { href: `#messages/${row.message_id}`, title: row.message_id }, shortId(row.message_id))],
    ["State", (row) => badge(row.state, row.hold)],
    ["Agent", (row) => link(address("messages", { agent: row.agent }), row.agent)],
    ["Text", (row) => [el("span.text", {}, shorten(asText(row.user_message), 120)), row.error ? el("span.error", {}, shorten(row.error, 160)) : ""], { wide: true }],
    ["Thread", (row) => (row.thread_id ? link(`threads/${encodeURIComponent(row.thread_id)}`, shorten(row.thread_id, 24)) : "")],
    ["Created", (row) => moment(row.created_at)],
    ["Took", (row) => (row.completed_at ? span(secondsBetween(row.created_at, row.completed_at)) : ""), { number: true }],
  ], rows, "No message satisfies this filter."));
}

function form(filter, at) {
  const made = el("form.filter", { role: "search", "aria-label": "Filter messages" });
  const select = el("select", { name: "state", id: "filter-state" }, STATES.map((state) => el("option", { value: state, selected: state === (filter.state ?? "") }, state || "any")));
  const agents = el("datalist", { id: "agent-names" });
  const agent = el("input", { name: "agent", id: "filter-agent", value: filter.agent ?? "", autocomplete: "off" });
  agent.setAttribute("list", "agent-names");
  made.append(el("div", {}, el("label", { htmlFor: "filter-state" }, "State"), select), el("div", {}, el("label", { htmlFor: "filter-agent" }, "Agent"), agent, agents));
  for (const [name, title] of TEXTS) {
    made.append(el("div", {}, el("label", { htmlFor: `filter-${name}` }, title), el("input", { name, id: `filter-${name}`, value: filter[name] ?? "", type: "search", autocomplete: "off" })));
  }
  for (const name of ["parent", "since", "until"]) if (filter[name]) made.append(el("input", { type: "hidden", name, value: filter[name] }));
  made.append(el("div.buttons", {}, el("button.primary", {}, "Filter"), el("a.button", { href: "#messages" }, "Clear")));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = address("messages", Object.fromEntries(new FormData(made)));
  });
  select.addEventListener("change", () => made.requestSubmit());
  all("agents", at.signal).then((found) => agents.replaceChildren(...found.map((one) => el("option", { value: one.agent })))).catch(() => {});
  return made;
}
