import type { components } from "./openapi.js";

type Schemas = components["schemas"];
export type Claim = Schemas["ClaimedMessage"];

/** The message fails for good; another attempt would not help. */
export class Rejected extends Error {
  override name = "Rejected";
}

/** The attempt failed; the next one begins after so many seconds. */
export class RetryAfter extends Error {
  override name = "RetryAfter";
  constructor(
    readonly seconds: number,
    reason = `Asked to be retried after ${seconds} seconds.`,
  ) {
    super(reason);
  }
}

/** What an agent can do with its message. */
export interface Context {
  readonly messageId: string;
  readonly threadId: string | null;
  readonly attempt: number;
  readonly metadata: Record<string, unknown>;
  /** The JSON object that the thread keeps. A remote worker cannot change it. */
  readonly memory: unknown;
  /** Aborts when the attempt must end: it was cancelled, it timed out, or its lease is lost. */
  readonly signal: AbortSignal;
  /** Stream a piece of text. Resolves when it is buffered; waits while a megabyte is unsent. */
  emit(text: string): Promise<void>;
  /** Stream an event of another type, such as `progress`. */
  event(type: string, data: unknown): Promise<void>;
  /** Run a function once for this message, however many attempts it takes. Its result is JSON. */
  step<T>(name: string, run: () => T | Promise<T>): Promise<T>;
  /** Store what the answer cost, for example tokens. */
  usage(counts: Record<string, unknown>): void;
}

export type AgentFunction = (context: Context, message: any) => unknown;

export interface AgentOptions extends Omit<Schemas["RemoteAgent"], "agent"> {
  run: AgentFunction;
}
