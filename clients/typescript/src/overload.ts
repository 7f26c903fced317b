import { Overloaded, Rejected, RetryAfter } from "./agent.js";
import { ApiError, Unavailable } from "./errors.js";

const OVERLOADED = [429, 503, 529];
const UNREACHABLE = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"];
const NO_MONEY = "insufficient_quota"; // OpenAI answers 429 for it, but waiting does not help
const MAX_CAUSES = 10;
const MAX_SECONDS = 3600;
const EARLIEST_EPOCH = 1e9; // a number of seconds from here on is a date, not a delay

/**
 * What an agent's error means, if it is that of a client (the SDK of a model, fetch) or was thrown because of one: Overloaded
 * where the service is overloaded or cannot be reached. Else the error itself.
 */
export function meaning(error: unknown, text: string): unknown {
  let cause = error as { status?: unknown; code?: unknown; headers?: unknown; cause?: unknown } | null | undefined;
  for (let depth = 0; depth < MAX_CAUSES && typeof cause === "object" && cause !== null; depth++) {
    if ([Rejected, RetryAfter, ApiError, Unavailable].some((own) => cause instanceof own)) return error;
    if (cause.code === NO_MONEY) return new Rejected(text);
    if (OVERLOADED.includes(cause.status as number)) return new Overloaded(text, secondsOf(cause.headers));
    if (UNREACHABLE.includes(cause.code as string)) return new Overloaded(text);
    cause = cause.cause as typeof cause;
  }
  return error;
}

/** Of a header Retry-After: a number of seconds or a date; 0 without a sensible one. */
function secondsOf(headers: unknown): number {
  const fields = headers as { get?: (name: string) => unknown; "retry-after"?: unknown } | null | undefined;
  const value = String((typeof fields?.get === "function" ? fields.get("retry-after") : fields?.["retry-after"]) ?? "");
  let seconds = value.trim() === "" ? 0 : Number(value);
  if (Number.isNaN(seconds)) seconds = (Date.parse(value) - Date.now()) / 1000;
  else if (seconds >= EARLIEST_EPOCH) seconds -= Date.now() / 1000;
  return seconds > 0 && seconds < Infinity ? Math.min(seconds, MAX_SECONDS) : 0;
}
