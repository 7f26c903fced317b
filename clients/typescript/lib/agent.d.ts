import type { components } from "./openapi.js";
type Schemas = components["schemas"];
export type Claim = Schemas["ClaimedMessage"];
/** The message fails for good; another attempt would not help. */
export declare class Rejected extends Error {
    name: string;
}
/** The attempt failed; the next one begins after so many seconds. */
export declare class RetryAfter extends Error {
    readonly seconds: number;
    name: string;
    constructor(seconds: number, reason?: string);
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
export {};
