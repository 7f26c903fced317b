// Calls of the service, with the key or token of this tab where the service asks for one.

import { headers } from "../chat/access.js";

/** The root of the service: this page is served at /dashboard. */
export const serviceUrl = new URL("..", import.meta.url);

/** What the key or token of this tab may do besides reading; main.js asks. Without it, buttons are left out. */
export const may = { operate: true };

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The answer as JSON; throws a Refusal. `query`: parameters, of which empty ones are left out. */
export async function call(method, path, more = {}) {
  return (await ask(method, path, more)).found;
}

/** A page of a list whose next page is told in the header `Link`: its items, the `cursor` of the next page (null: this
 * is the last one), and until when a search has looked (null: at all). */
export async function page(path, query, signal) {
  const { found, answer } = await ask("GET", path, { query, signal });
  const next = /<([^>]*)>; rel="next"/.exec(answer.headers.get("Link") ?? "");
  return { items: found, cursor: next && new URL(next[1], serviceUrl).searchParams.get("cursor"), until: answer.headers.get("Searched-Until") };
}

/** The items of all pages of such a list. */
export async function all(path, signal) {
  const found = [];
  let cursor = null;
  do {
    const list = await page(path, { limit: 1000, cursor }, signal);
    found.push(...list.items);
    cursor = list.cursor;
  } while (cursor);
  return found;
}

async function ask(method, path, { query = {}, body, signal } = {}) {
  const url = new URL(path, serviceUrl);
  for (const [name, value] of Object.entries(query)) if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  const sent = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(url, { method, headers: { ...headers(), ...sent }, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service cannot be reached.");
  }
  if (answer.status === 204) return { found: null, answer };
  const found = await answer.json().catch(() => null);
  // The health is told with 503, too.
  if (!answer.ok && !(path === "health" && found?.status)) throw new Refusal(answer.status, found?.detail ?? answer.statusText);
  return { found, answer };
}

export const get = (path, query = {}, signal = undefined) => call("GET", path, { query, signal });

/** A part of a path. */
export const part = (text) => encodeURIComponent(text);

/**
 * Read server-sent events until the stream ends, and again from the last one where it breaks; `apply(type, data)` gets
 * each. `place.last`: the id of the last one. `opened` and `closed` are called with each connection. EventSource sends
 * no headers, so this reads the body of a fetch. It returns where the stream has ended or is refused, or at the signal.
 */
export async function follow(path, apply, signal, { place = { last: "" }, opened = () => {}, closed = () => {} } = {}) {
  for (;;) {
    let wait = 1000;
    try {
      const answer = await fetch(new URL(path, serviceUrl), { headers: { ...headers(), ...(place.last && { "Last-Event-ID": place.last }) }, signal });
      const isBusy = answer.status === 408 || answer.status === 429;
      if (answer.status === 204 || (answer.status >= 400 && answer.status < 500 && !isBusy)) return;
      if (isBusy) wait = 1000 * (Number(answer.headers.get("Retry-After")) || 5);
      if (answer.ok) {
        opened();
        try {
          await readEvents(answer.body, apply, place);
        } finally {
          closed();
        }
        wait = 200;
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    if (signal.aborted) return;
  }
}

async function readEvents(body, apply, place) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const read = { event: "message", data: "", id: null };
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("event: ")) read.event = line.slice(7);
      else if (line.startsWith("data: ")) read.data = line.slice(6);
      else if (line.startsWith("id: ")) read.id = line.slice(4);
      else if (line === "" && read.data) {
        apply(read.event, JSON.parse(read.data));
        place.last = read.id ?? place.last;
        Object.assign(read, { event: "message", data: "", id: null });
      }
    }
  }
}
