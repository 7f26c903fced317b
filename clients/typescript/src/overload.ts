import { Overloaded, Rejected, RetryAfter } from "./agent.js";
import { ApiError, Unavailable } from "./errors.js";

const FIRST_ERROR_STATUS = 400;
const OVERLOADED = [429, 503, 529];
const UNREACHABLE = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"];
const OVERLOADS = ["overloaded_error", "rate_limit_error", "rate_limit_exceeded", "server_overloaded"]; // in a stream
// What AWS calls an overload, whatever its status is.
const AWS_OVERLOADS = [
  ...["throttlingexception", "throttling", "throttledexception", "ec2throttledexception", "requestthrottled"],
  ...["requestthrottledexception", "toomanyrequestsexception", "requestlimitexceeded", "slowdown"],
  ...["serviceunavailableexception", "modelnotreadyexception", "provisionedthroughputexceededexception"],
];
const NO_MONEY = "insufficient_quota"; // OpenAI answers 429 for it, but waiting does not help
const MAX_CAUSES = 10;
const MAX_SECONDS = 3600;
const EARLIEST_EPOCH = 1e9; // a number of seconds from here on is a date, not a delay

/**
 * What an agent's error means, if it is that of a client (the SDK of a model or of AWS, fetch) or was thrown because of one:
 * Overloaded where the service is overloaded or cannot be reached. Else the error itself.
 */
export function meaning(error: unknown, text: string): unknown {
  let cause = error;
  for (let depth = 0; depth < MAX_CAUSES && typeof cause === "object" && cause !== null; depth++) {
    if ([Rejected, RetryAfter, ApiError, Unavailable].some((own) => cause instanceof own)) return error;
    const names = namesOf(cause);
    if (names.includes(NO_MONEY)) return new Rejected(text);
    if (isOverload(cause, names)) {
      return new Overloaded(text, secondsOf(part(cause, "headers") ?? part(cause, "responseHeaders")));
    }
    if (UNREACHABLE.includes(part(cause, "code") as string)) return new Overloaded(text);
    cause = part(cause, "cause") ?? part(cause, "lastError");
  }
  return error;
}

function isOverload(error: unknown, names: unknown[]): boolean {
  const metadata = part(error, "$metadata");
  if (metadata !== undefined && AWS_OVERLOADS.includes(String(part(error, "name")).toLowerCase())) return true;
  const given = [part(error, "status"), part(error, "statusCode"), part(metadata, "httpStatusCode")];
  const statuses = given.filter((status) => typeof status === "number" && status >= FIRST_ERROR_STATUS) as number[];
  if (statuses.length > 0) return statuses.some((status) => OVERLOADED.includes(status));
  return names.some((name) => OVERLOADS.includes(name as string));
}

/** The types and codes of an error and of the body that it carries. */
function namesOf(error: unknown): unknown[] {
  const body = part(error, "error");
  const bodies = [error, body, part(body, "error"), part(part(error, "data"), "error")];
  return bodies.flatMap((one) => [part(one, "type"), part(one, "code")]);
}

function part(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
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
