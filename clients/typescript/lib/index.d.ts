export { type AgentFunction, type AgentOptions, type Claim, type Context } from "./agent.js";
export { ChildFailed, Overloaded, Rejected, RetryAfter } from "./agent.js";
export type { Exchange, PublishOptions, SendOptions, Step } from "./agent.js";
export { Chat, type ChatEvent, type ChatInput, type ChatOptions } from "./chat.js";
export * from "./client.js";
export type { ClientOptions } from "./connection.js";
export { ApiError, LeaseLost, MessageEnded, Unavailable } from "./errors.js";
export type { StreamEvent, StreamOptions } from "./streams.js";
export { Worker, type WorkerOptions } from "./worker.js";
