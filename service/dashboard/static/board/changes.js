// Hints that messages or topics have changed. One stream serves all tabs of this browser that can be seen: a browser
// keeps few connections to a host, and streams that are open for long would use them up.

import { headers } from "../chat/access.js";
import { follow } from "./api.js";

const heard = new Set();
let watching = new AbortController();

/** Whether hints arrive. Without them, views read again by the clock alone. */
export const changes = { live: false };

/** Call `act` with `messages` or `topics` when such have changed, until the signal. */
export function onChange(act, signal) {
  heard.add(act);
  signal.addEventListener("abort", () => heard.delete(act));
}

/** Listen with the key or token that this tab has now. */
export function watchChanges() {
  watching.abort();
  watching = new AbortController();
  const { signal } = watching;
  const name = `treadle-changes-${fingerprint(headers().Authorization ?? "")}`;
  const channel = new BroadcastChannel(name);
  const tell = ({ live, of = [] }) => {
    if (live !== undefined) changes.live = live;
    for (const kind of of) for (const act of heard) act(kind);
  };
  channel.onmessage = ({ data }) => (data.asks ? leads && channel.postMessage({ live: changes.live }) : tell(data));
  signal.addEventListener("abort", () => channel.close());
  let leads = false;
  const say = (told) => {
    if (signal.aborted) return;
    channel.postMessage(told);
    tell(told);
  };
  const lead = async (shown) => {
    leads = true;
    say({ live: false }); // the leader before may have ended without a word
    await follow("changes", (type, data) => {
      if (type === "changed") say({ of: data.of });
    }, shown, { opened: () => say({ live: true }), closed: () => say({ live: false }) });
    leads = false;
  };
  channel.postMessage({ asks: true });
  // One of the tabs that can be seen leads. Where a page has no locks (plain HTTP of another machine), each does.
  whileSeen((shown) => (navigator.locks ? navigator.locks.request(name, { signal: shown }, () => lead(shown)) : lead(shown)), signal);
}

/** Read the events of a message while the page can be seen, from where it was left. */
export function followWhileSeen(path, apply, signal) {
  const place = { last: "" };
  return whileSeen((shown) => follow(path, apply, shown, { place }), signal);
}

/** Do it while the page can be seen, again when it is seen again, until it ends by itself. */
async function whileSeen(act, signal) {
  while (!signal.aborted) {
    await seen(signal);
    const shown = new AbortController();
    const hide = () => (document.hidden || signal.aborted) && shown.abort();
    document.addEventListener("visibilitychange", hide, { signal: shown.signal });
    signal.addEventListener("abort", hide, { signal: shown.signal });
    hide();
    try {
      await act(shown.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
    if (!shown.signal.aborted) return;
  }
}

const seen = (signal) => new Promise((resolve) => {
  const done = new AbortController();
  const look = () => {
    if (document.hidden && !signal.aborted) return;
    done.abort();
    resolve();
  };
  document.addEventListener("visibilitychange", look, { signal: done.signal });
  signal.addEventListener("abort", look, { signal: done.signal });
  look();
});

/** Tabs with the same key share a stream; the name of their channel does not tell the key. */
function fingerprint(text) {
  let found = 0;
  for (const sign of text) found = (Math.imul(found, 31) + sign.codePointAt(0)) | 0;
  return found;
}
