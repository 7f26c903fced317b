import { Chat, type ChatOptions } from "./chat.js";
import { type ClientOptions, Connection } from "./connection.js";
import type { components } from "./openapi.js";
import { type StreamEvent, type StreamOptions } from "./streams.js";
type Schemas = components["schemas"];
export type Accepted = Schemas["Accepted"];
export type Status = Schemas["Status"];
export type Message = Schemas["NewMessage"]["message"];
export type SubmitOptions = Partial<Omit<Schemas["NewMessage"], "message">> & {
    idempotencyKey?: string;
};
export type Thread = Schemas["Thread"];
export type ThreadSummary = Schemas["ThreadSummary"];
export type Queue = Schemas["Queue"];
export type DeadLetter = Schemas["DeadLetter"];
export type Topic = Schemas["Topic"];
export type TopicRecord = Schemas["Record"];
export type NewRecord = Schemas["NewRecord"];
export type Subscription = Schemas["Subscription"];
export type State = Status["state"];
export type MessageSummary = Schemas["MessageSummary"];
export type MessageDetails = Schemas["Message"];
export type Changes = Schemas["Changes"];
export type Statistics = Schemas["Statistics"];
export type Instance = Schemas["Instance"];
/** A message must satisfy each of these; times are RFC 3339. */
export interface MessageFilter {
    agent?: string;
    queue?: string;
    thread_id?: string;
    parent?: string;
    since?: string;
    until?: string;
    error?: string;
    q?: string;
}
export interface StatsOptions {
    from?: string;
    to?: string;
    step?: number;
    queue?: string;
    agent?: string;
    by?: "queue" | "agent";
}
/** Items of a list; `nextCursor` asks for the page that follows, undefined on the last one. */
export interface Page<T> {
    items: T[];
    nextCursor?: string;
}
export interface PageOptions {
    limit?: number;
    cursor?: string;
}
/** A client of one server, in Node and in browsers. */
export declare class Treadle {
    #private;
    readonly connection: Connection;
    constructor(options?: ClientOptions);
    /** Submit a message. When this resolves, it is stored durably; a call that is repeated submits once. */
    submit(message: Message, options?: SubmitOptions): Promise<Accepted>;
    /** Submit up to 1,000 messages in this order, all or nothing. */
    submitMany(messages: Schemas["NewMessage"][], options?: {
        idempotencyKey?: string;
    }): Promise<Accepted[]>;
    status(messageId: string): Promise<Status>;
    /** Wait until a message is over. */
    wait(messageId: string, options?: {
        signal?: AbortSignal;
    }): Promise<Status>;
    /** Submit, wait, and return the result. Rejects with MessageEnded if the message has no result. */
    run(message: Message, options?: SubmitOptions & {
        signal?: AbortSignal;
    }): Promise<unknown>;
    /** Cancel a message. One that runs ends within about a second. */
    cancel(messageId: string): Promise<void>;
    /** Answer the question that a message waits with; `name` is the question's. */
    answer(messageId: string, input: unknown, name?: string): Promise<void>;
    /** Give a failed message a new life. */
    redrive(messageId: string): Promise<void>;
    /** Run a message that is over again, from this step; the results of the steps before it are kept. */
    retry(messageId: string, step: string): Promise<void>;
    /** A page of the messages that satisfy a filter, the newest first. */
    messages(filter?: MessageFilter & {
        state?: State | "open";
    } & PageOptions): Promise<Page<MessageSummary>>;
    /** A message with its attempts, steps, tools and the messages that it sent. */
    inspect(messageId: string): Promise<MessageDetails>;
    /** Why a message has not finished, the nearest reason first. */
    explain(messageId: string): Promise<Schemas["Reason"][]>;
    /** Change the priority, the delay or the metadata of a queued message. */
    change(messageId: string, changes: Schemas["MessageChanges"]): Promise<Status>;
    /** Cancel the open messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
    cancelMany(selection?: Schemas["Selection"]): Promise<Changes>;
    /** Redrive the failed messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
    redriveMany(selection?: Schemas["Selection"]): Promise<Changes>;
    /** The events of a message, up to the one with which it is over. It resumes by itself for as long as it takes. */
    stream(messageId: string, options?: StreamOptions): AsyncGenerator<StreamEvent>;
    /** The pieces of the answer's text. After `retry` the text begins again: a piece of another attempt has `restart`. */
    text(messageId: string, options?: StreamOptions): AsyncGenerator<{
        text: string;
        restart: boolean;
    }>;
    /** A chat with a thread over one WebSocket: send messages, and iterate over the events of all of them. */
    chat(threadId: string, options?: ChatOptions): Chat;
    /** All events of a thread. It ends only when the thread is deleted. */
    streamThread(threadId: string, options?: StreamOptions): AsyncGenerator<StreamEvent>;
    /** The threads, the most recently active first; `q`: a text in their id, metadata or last message. */
    threads(options?: PageOptions & {
        q?: string;
    }): Promise<Page<ThreadSummary>>;
    thread(threadId: string): Promise<Thread>;
    threadMessages(threadId: string, options?: PageOptions): Promise<Page<Status>>;
    threadUsage(threadId: string): Promise<Record<string, number>>;
    /** Replace the metadata of a thread. */
    changeThread(threadId: string, metadata: Record<string, unknown>): Promise<Thread>;
    /** Delete a thread with its messages. */
    deleteThread(threadId: string): Promise<void>;
    /** Totals of all queues, and the messages that wait or run. */
    overview(): Promise<Schemas["Overview"]>;
    queues(): Promise<Queue[]>;
    deadLetters(queue: string, options?: PageOptions): Promise<Page<DeadLetter>>;
    agents(): Promise<Schemas["Agent"][]>;
    workers(): Promise<Schemas["Worker"][]>;
    /** What happened, in steps of time: counts, percentiles, tokens and cost. */
    stats(options?: StatsOptions): Promise<Statistics>;
    /** The warm instances that workers keep, the newest first, at most `limit` (100). */
    instances(options?: {
        agent?: string;
        thread_id?: string;
        limit?: number;
    }): Promise<Instance[]>;
    dropInstance(agent: string, threadId: string): Promise<void>;
    health(): Promise<Schemas["Health"]>;
    /** An access token for a browser, for a thread, a message or a subject. */
    createToken(token: Schemas["NewToken"]): Promise<Schemas["CreatedToken"]>;
    topics(): Promise<Topic[]>;
    declareTopic(topic: string, options?: Schemas["NewTopic"]): Promise<Topic>;
    /** Publish records, all or nothing. A call that is repeated stores each once. Returns their ids. */
    publish(topic: string, ...records: NewRecord[]): Promise<string[]>;
    /** A page of the records from an offset, a time, `earliest` or `latest` on; `wait`: seconds for the first one. */
    records(topic: string, options?: {
        offset?: string | number;
        limit?: number;
        wait?: number;
    }): Promise<Schemas["RecordPage"]>;
    /** The records of a topic, from `from` on (default: `latest`). It resumes by itself, until the topic is deleted. */
    streamTopic(topic: string, options?: {
        from?: string | number;
        signal?: AbortSignal;
    }): AsyncGenerator<TopicRecord>;
    /** Declare a subscription: each record of its topics becomes a message for its agent. */
    subscribe(name: string, subscription: Schemas["NewSubscription"]): Promise<Subscription>;
}
export {};
