import type { AgentFunction, AgentOptions } from "./agent.js";
import { type ClientOptions } from "./connection.js";
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
