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
