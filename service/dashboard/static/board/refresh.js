// When a view reads again: as soon as a hint says that its data has changed, and by the clock.

import { changes, onChange } from "./changes.js";

const REST_SECONDS = 15; // until a view reads again without a hint: one may be lost, and ages grow

/**
 * Do it now, and again until the signal, while the page can be seen. Data of the kinds `of` is read again when it has
 * changed, but at most once in each `seconds`; without hints, where `of` names nothing, and where `act` resolves to
 * false because it has failed, each `seconds`.
 */
export function refresh({ seconds, act, of, signal }) {
  const length = seconds * 1000;
  let timer = null;
  let ranIn = -1; // the multiple of `seconds` in which it was read last
  let busy = false;
  let changed = false;
  const tick = () => Math.floor(Date.now() / length);
  const plan = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(run, wait);
  };
  const run = async () => {
    clearTimeout(timer);
    if (signal.aborted || busy) return;
    busy = true;
    changed = false;
    ranIn = tick();
    const rests = (await act()) && of.length && changes.live && !changed;
    busy = false;
    if (!signal.aborted) plan(untilTick(rests ? Math.max(seconds, REST_SECONDS) : seconds));
  };
  const hear = (kind) => {
    if (!of.includes(kind)) return;
    changed = true;
    if (busy) return;
    if (tick() > ranIn) run();
    else plan(length - (Date.now() % length));
  };
  if (of.length) onChange(hear, signal);
  document.addEventListener("visibilitychange", () => document.hidden || run(), { signal });
  return run();
}

/**
 * Milliseconds to the next multiple of so many seconds. All pages read at the same moments, so that the service reads
 * once for all of them.
 */
export function untilTick(seconds) {
  const length = seconds * 1000;
  const left = length - (Date.now() % length);
  return left < length / 4 ? left + length : left;
}
