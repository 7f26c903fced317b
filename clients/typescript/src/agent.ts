import type { components } from "./openapi.js";

type Schemas = components["schemas"];
export type Claim = Schemas["ClaimedMessage"];

const MAX_DELAY_SECONDS = 366 * 86_400;

/** The message fails for good; another attempt would not help. */
export class Rejected extends Error {
  override name = "Rejected";
}

/** The attempt failed; the next one begins after so many seconds. */
export class RetryAfter extends Error {
  override name = "RetryAfter";
  /** From 0 to 366 days. */
  readonly seconds: number;
  constructor(
    seconds: number,
    reason = `Asked to be retried after ${seconds} seconds.`,
  ) {
    super(reason);
    this.seconds = Math.min(Math.max(0, Number(seconds) || 0), MAX_DELAY_SECONDS);
  }
}

/**
 * A service that the agent needs is overloaded or away. The message is put off without a failure, until OVERLOAD_PATIENCE is
 * over. `seconds`: how long the service asks to wait, if it says so.
 */
export class Overloaded extends RetryAfter {
  override name = "Overloaded";
  constructor(reason = "A service that the agent needs is overloaded.", seconds = 0) {
    super(seconds, reason);
  }
}

/** A message that the agent sent, and waits for, has not completed. */
export class ChildFailed extends Rejected {
  override name = "ChildFailed";
  constructor(
    readonly messageId: string,
    readonly state: Schemas["WaitedMessage"]["state"],
    readonly error: string | null,
  ) {
    super(`The message ${messageId} is ${state}${error ? `: ${error}` : "."}`);
  }
}

/** What an agent can do with its message. Once the attempt must end, or has ended, every call rejects before it begins anything. */
export interface Context {
  readonly messageId: string;
  readonly threadId: string | null;
  readonly attempt: number;
  readonly metadata: Record<string, unknown>;
  /** The W3C trace context that the attempt goes on with: for the header of calls, or as the parent of a span. */
  readonly traceparent: string | null;
  /** The JSON object that the thread keeps. Change it: it is saved when the agent returns. */
  readonly memory: Record<string, any>;
  /** Aborts when the attempt must end: it was cancelled, it timed out, or its lease is lost. */
  readonly signal: AbortSignal;
  /** Stream a piece of text. Resolves when it is buffered; waits while a megabyte is unsent. */
  emit(text: string): Promise<void>;
  /** Stream an event of another type, such as `progress`. */
  event(type: string, data: unknown): Promise<void>;
  /** Run a function once for this message, however many attempts it takes. Its result is JSON. */
  step<T>(name: string, run: (step: Step) => T | Promise<T>): Promise<T>;
  /**
   * Submit another message; its id. It is committed with the next step, with a question, or with the end of this message,
   * once, however many attempts that takes. A later attempt finds it by its `name`, else by its content: each attempt must
   * send the same.
   */
  send(message: string | Record<string, unknown>, options?: SendOptions): Promise<string>;
  /**
   * The results of messages that this one has sent, by the ids that `send` returned. While one of them is open, the
   * attempt ends, and another one begins when all are over. Throws ChildFailed for one that has not completed;
   * `settled`: has it among the results instead.
   */
  gather(messages: string[], options?: { settled?: boolean }): Promise<any[]>;
  /** Publish a record to a topic; its id. Committed as a sent message is. */
  publish(topic: string, value: unknown, options?: PublishOptions): Promise<string>;
  /** Ask a person. The attempt ends, and another one begins with the answer. */
  input(question: unknown, options?: { name?: string }): Promise<any>;
  /** The last completed messages of the thread before this one, oldest first. */
  history(options?: { limit?: number; tools?: boolean }): Promise<Exchange[]>;
  /** Store what the answer cost, for example tokens. A later call replaces the values of an earlier one. */
  usage(counts: Record<string, unknown>): void;
}

/** What the function of a step can do. */
export interface Step {
  /** As `usage` of the context, for this step: steps that run side by side are added, and count though the worker is lost. */
  usage(counts: Record<string, unknown>): void;
}

export type SendOptions = Partial<Omit<Schemas["SentMessage"], "message" | "name">> & { name?: string };
export type PublishOptions = Partial<Pick<Schemas["SentRecord"], "key" | "headers">> & { name?: string };
export type Exchange = Schemas["PastExchange"];

export type AgentFunction = (context: Context, message: any) => unknown;

export interface AgentOptions extends Omit<Schemas["RemoteAgent"], "agent"> {
  run: AgentFunction;
}
