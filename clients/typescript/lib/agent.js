const MAX_DELAY_SECONDS = 366 * 86_400;
/** The message fails for good; another attempt would not help. */
export class Rejected extends Error {
    name = "Rejected";
}
/** The attempt failed; the next one begins after so many seconds. */
export class RetryAfter extends Error {
    name = "RetryAfter";
    /** From 0 to 366 days. */
    seconds;
    constructor(seconds, reason = `Asked to be retried after ${seconds} seconds.`) {
        super(reason);
        this.seconds = Math.min(Math.max(0, Number(seconds) || 0), MAX_DELAY_SECONDS);
    }
}
/**
 * A service that the agent needs is overloaded or away. The message is put off without a failure, until OVERLOAD_PATIENCE is
 * over. `seconds`: how long the service asks to wait, if it says so.
 */
export class Overloaded extends RetryAfter {
    name = "Overloaded";
    constructor(reason = "A service that the agent needs is overloaded.", seconds = 0) {
        super(seconds, reason);
    }
}
/** A message that the agent sent, and waits for, has not completed. */
export class ChildFailed extends Rejected {
    messageId;
    state;
    error;
    name = "ChildFailed";
    constructor(messageId, state, error) {
        super(`The message ${messageId} is ${state}${error ? `: ${error}` : "."}`);
        this.messageId = messageId;
        this.state = state;
        this.error = error;
    }
}
