import { type Connection } from "./connection.js";
import type { components } from "./openapi.js";
import type { StreamEvent } from "./streams.js";
export interface ChatOptions {
    /** The agent of messages that name none. Default: that of the thread's last message, or the default agent. */
    agent?: string;
    /** The id of the last event that was seen, and the log that it belongs to. Default: none, so all events follow. */
    lastId?: number;
    log?: number;
}
/** An event of the thread's log. `deleted` and `gap` have no id and no message. */
export interface ChatEvent extends StreamEvent {
    messageId?: string;
}
export type ChatInput = Partial<Pick<components["schemas"]["NewMessage"], "agent" | "priority" | "metadata" | "aside" | "on_busy">>;
/**
 * The events and the inputs of one thread over one WebSocket. Iterate over it for the events. It comes back after the last
 * one for as long as it takes; inputs are sent again until they are accepted, and submitted once. `lastId` and `log` are
 * those of the last event that the reader received.
 */
export declare class Chat implements AsyncIterable<ChatEvent> {
    #private;
    lastId: number;
    log: number | undefined;
    constructor(connection: Connection, threadId: string, { agent, lastId, log }: ChatOptions);
    /** A message for the thread. Resolves when it is stored durably, with its id. Rejects with ApiError if it is refused. */
    send(message: string | Record<string, unknown>, options?: ChatInput): Promise<string>;
    /** Close the socket. It stops no agent. */
    close(): void;
    [Symbol.asyncIterator](): AsyncGenerator<ChatEvent>;
}
