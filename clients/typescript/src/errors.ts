/** The server refused a call, and nothing was written. `detail` is its sentence, `retryAfter` its advice in seconds. */
export class ApiError extends Error {
  override name = "ApiError";
  constructor(
    readonly status: number,
    readonly detail: string,
    readonly retryAfter?: number,
    readonly title = "",
  ) {
    super(detail);
  }
}

/** The server cannot be reached, or has no database, for longer than the client repeats the call. */
export class Unavailable extends Error {
  override name = "Unavailable";
}

/** `run`: the message ended as failed or cancelled. */
export class MessageEnded extends Error {
  override name = "MessageEnded";
  constructor(
    readonly messageId: string,
    readonly state: "failed" | "cancelled",
    reason: string,
  ) {
    super(reason);
  }
}

/** The worker does not hold the lease any more: another one has the message, or it is over. */
export class LeaseLost extends Error {
  override name = "LeaseLost";
}
