export * from "./client.js";
export { ApiError, LeaseLost, MessageEnded, Unavailable } from "./errors.js";
export { Rejected, RetryAfter, Worker, } from "./worker.js";
