/** The server refused a call, and nothing was written. `detail` is its sentence, `retryAfter` its advice in seconds. */
export class ApiError extends Error {
    status;
    detail;
    retryAfter;
    title;
    name = "ApiError";
    constructor(status, detail, retryAfter, title = "") {
        super(detail);
        this.status = status;
        this.detail = detail;
        this.retryAfter = retryAfter;
        this.title = title;
    }
}
/** The server cannot be reached, or has no database, for longer than the client repeats the call. */
export class Unavailable extends Error {
    name = "Unavailable";
}
/** `run`: the message ended as failed or cancelled. */
export class MessageEnded extends Error {
    messageId;
    state;
    name = "MessageEnded";
    constructor(messageId, state, reason) {
        super(reason);
        this.messageId = messageId;
        this.state = state;
    }
}
/** The worker does not hold the lease any more: another one has the message, or it is over. */
export class LeaseLost extends Error {
    name = "LeaseLost";
}
