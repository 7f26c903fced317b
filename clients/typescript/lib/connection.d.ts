import { ApiError, Unavailable } from "./errors.js";
export interface ClientOptions {
    /** Of the server. Default: `http://localhost:8000`; in a browser the page's own origin. */
    url?: string;
    /** An API key, an access token or a JWT. */
    key?: string;
    /** How long a call is repeated that finds no server, a full queue or a reached limit. Default: 60. */
    repeatSeconds?: number;
    fetch?: typeof fetch;
}
export interface CallOptions {
    body?: unknown;
    query?: Record<string, string | number | undefined>;
    idempotencyKey?: string;
    /** Whether the server may receive the call twice. Default: true. */
    repeatable?: boolean;
    signal?: AbortSignal | undefined;
    traceparent?: string | null | undefined;
}
/** Milliseconds before repeat `attempt` (from 1): exponential, half of it random. */
export declare function backoff(attempt: number): number;
/** Resolves after so many milliseconds; rejects when the signal aborts. */
export declare function sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
/** One server. It repeats calls whose answer was lost. */
export declare class Connection {
    #private;
    readonly url: string;
    readonly key: string | undefined;
    constructor(options?: ClientOptions);
    /** One request, without a repeat. */
    request(method: string, path: string, init?: RequestInit & {
        headers?: Record<string, string>;
    }): Promise<Response>;
    /** A call until it is answered; the JSON of the answer. */
    call<T>(method: string, path: string, options?: CallOptions): Promise<T>;
    /** A call until it is answered. */
    send(method: string, path: string, options?: CallOptions): Promise<Response>;
}
/** The error for an answer without success. */
export declare function errorOf(answer: Response): Promise<ApiError | Unavailable>;
/** An id or name as one segment of a path. */
export declare function segment(value: string): string;
/** A random id, also where a page is not served over HTTPS, and in Node 18, which has no `crypto`. */
export declare function randomId(): string;
/** A UUIDv7 (RFC 9562): the id of a record. */
export declare function uuid7(): string;
