/** The server refused a call, and nothing was written. `detail` is its sentence, `retryAfter` its advice in seconds. */
export declare class ApiError extends Error {
    readonly status: number;
    readonly detail: string;
    readonly retryAfter?: number | undefined;
    readonly title: string;
    name: string;
    constructor(status: number, detail: string, retryAfter?: number | undefined, title?: string);
}
/** The server cannot be reached, or has no database, for longer than the client repeats the call. */
export declare class Unavailable extends Error {
    name: string;
}
/** `run`: the message ended as failed or cancelled. */
export declare class MessageEnded extends Error {
    readonly messageId: string;
    readonly state: "failed" | "cancelled";
    name: string;
    constructor(messageId: string, state: "failed" | "cancelled", reason: string);
}
/** The worker does not hold the lease any more: another one has the message, or it is over. */
export declare class LeaseLost extends Error {
    name: string;
}
