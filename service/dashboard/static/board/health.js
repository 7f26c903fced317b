// The health of the service: the mark at the head of each page, and what the overview shows of it.

import { get } from "./api.js";
import { untilTick } from "./refresh.js";
import { el } from "./show.js";

const REFRESH_SECONDS = 10;

const mark = document.querySelector("#health");
let askedAt = 0;

/** The answer, which the mark shows as well. */
export async function askHealth(signal) {
  askedAt = Date.now();
  try {
    const found = await get("health", {}, signal);
    const text = found.status === "healthy" ? "Healthy" : `${found.reasons.length || 1} to look at`;
    mark.dataset.state = found.status;
    if (mark.textContent !== text) mark.replaceChildren(found.status === "healthy" ? text : el("a", { href: "#overview" }, text));
    return found;
  } catch (error) {
    if (error.name !== "AbortError") {
      mark.dataset.state = "unhealthy";
      mark.textContent = "Not reachable";
    }
    throw error;
  }
}

/** Keep the mark true while the page can be seen. Where a view asks more often, it does so for both. */
export async function watchHealth() {
  const isFresh = Date.now() - askedAt < REFRESH_SECONDS * 750; // timers are late by some milliseconds
  if (!document.hidden && !isFresh) await askHealth().catch(() => {});
  setTimeout(watchHealth, untilTick(REFRESH_SECONDS));
}
