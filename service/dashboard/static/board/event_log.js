// The event log of a message as it is stored: one row for each event, also for those that the page shows in another way.

import { get, part } from "./api.js";
import { counted, el } from "./show.js";

const REFRESH_SECONDS = 2;
const PAGE_ITEMS = 200;
const SHOWN_CHARS = 2000;

/** A box that reads the log while it is open, to the end of each `life()`. It has `room` rows, until a person asks for more. */
export function eventLog(at, id, life) {
  const rows = el("tbody");
  const table = el("table.events", {}, el("caption.visually-hidden", {}, "Event log"), el("thead", {}, el("tr", {}, ["Seq", "Type", "Data", "Time"].map((name) => el("th", { scope: "col" }, name)))), rows);
  const more = el("button", { type: "button", hidden: true }, "Show more");
  const told = el("span.quiet", { role: "status" });
  const box = el("details", { data: { name: "Event log" } }, el("summary", {}, "Event log"), el("div.scroll", { tabIndex: 0, role: "region", "aria-label": "Event log" }, table), el("p.actions", {}, more, told));
  let after = 0;
  let room = PAGE_ITEMS;
  let over = null; // the life whose end it shows
  let busy = false;
  const read = async () => {
    const limit = room - rows.childElementCount;
    if (!box.open || busy || limit === 0 || over === life()) return;
    busy = true;
    const now = life();
    try {
      const page = await get(`messages/${part(id)}/events`, { after, limit }, at.signal);
      rows.append(...page.events.map(row));
      after = page.next_after;
      over = page.over ? now : null;
      more.hidden = page.over || page.events.length < limit;
      told.textContent = `${counted(rows.childElementCount, "event")}${page.over ? "" : " so far"}`;
    } catch (error) {
      if (error.name !== "AbortError") told.textContent = error.message;
    } finally {
      busy = false;
    }
  };
  more.addEventListener("click", () => {
    room += PAGE_ITEMS;
    read();
  });
  box.addEventListener("toggle", read);
  at.every(REFRESH_SECONDS, read, table);
  return box;
}

function row({ seq, type, data, created_at }) {
  const text = JSON.stringify(data);
  const shown = text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}… (${counted(text.length, "character")})` : text;
  const cell = (heading, more, child) => el(`td${more}`, { data: { heading } }, el("div", {}, child));
  return el("tr", {},
    cell("Seq", ".number", String(seq)),
    cell("Type", "", type),
    cell("Data", ".wide", el("code", {}, shown)),
    cell("Time", "", el("time", { dateTime: created_at }, created_at.slice(11, 23))));
}
