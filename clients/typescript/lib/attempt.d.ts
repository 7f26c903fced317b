import { type AgentOptions, type Claim } from "./agent.js";
import { type Connection } from "./connection.js";
/** Why an attempt must end early. */
export type Stop = "lost" | "cancelled" | "released" | "timeout" | Asked | Waiting | Error;
/** The question of an attempt that ends until a person answers. */
declare class Asked {
    readonly name: string;
    readonly question: unknown;
    constructor(name: string, question: unknown);
}
/** The messages of an attempt that ends until all of them are over. */
declare class Waiting {
    readonly children: string[];
    constructor(children: string[]);
}
/** One attempt at one message. */
export declare class Attempt {
    #private;
    readonly lease: {
        message_id: string;
        lease: string;
    };
    constructor(claim: Claim, { run, client_state: names }: AgentOptions, connection: Connection, workerId: string);
    /** End it early; the first reason counts. */
    stop(reason: Stop): void;
    /** Resolves when the server knows the end, or when the lease is lost. */
    run(): Promise<void>;
}
export {};
