export { ChildFailed, Overloaded, Rejected, RetryAfter } from "./agent.js";
export { Chat } from "./chat.js";
export * from "./client.js";
export { ApiError, LeaseLost, MessageEnded, Unavailable } from "./errors.js";
export { Worker } from "./worker.js";
