import { type ClientOptions } from "./connection.js";
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
export interface WorkerOptions extends ClientOptions {
    /** Messages at once, 1 to 1000. Default: 10. */
    concurrency?: number;
    /** How long `stop` lets running messages end before they are given back. Default: 30. */
    graceSeconds?: number;
    /** Receives one line for each thing that went wrong. Default: console.warn. */
    log?: (line: string) => void;
}
/**
 * Runs agents in this program, for the tenant of its key. One process is one worker: keep the event loop free, because
 * heartbeats are sent from it.
 *
 *     await new Worker({ shout: async (context, text) => text.toUpperCase() }).run();
 */
export declare class Worker {
    #private;
    /** Resolves when the server knows the worker and its agents; rejects if `run` does. */
    readonly registered: Promise<void>;
    constructor(agents: Record<string, AgentFunction | AgentOptions>, options?: WorkerOptions);
    /** The id under which the server knows this worker; undefined before it has registered. */
    get workerId(): string | undefined;
    /** Work until `stop` is called. Rejects if the server refuses the worker. */
    run(): Promise<void>;
    /** Claim no more, and let what runs end. The second call gives it back at once. */
    stop(): void;
}
export {};
