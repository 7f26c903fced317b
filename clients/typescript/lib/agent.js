/** The message fails for good; another attempt would not help. */
export class Rejected extends Error {
    name = "Rejected";
}
/** The attempt failed; the next one begins after so many seconds. */
export class RetryAfter extends Error {
    seconds;
    name = "RetryAfter";
    constructor(seconds, reason = `Asked to be retried after ${seconds} seconds.`) {
        super(reason);
        this.seconds = seconds;
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
