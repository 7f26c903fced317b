import { Chat, type ChatOptions } from "./chat.js";
import { type CallOptions, type ClientOptions, Connection, randomId, segment, uuid7 } from "./connection.js";
import { MessageEnded } from "./errors.js";
import type { components } from "./openapi.js";
import { follow, type StreamEvent, type StreamOptions } from "./streams.js";

const MAX_PAGE_ITEMS = 1_000; // of one answer

type Schemas = components["schemas"];
export type Accepted = Schemas["Accepted"];
export type Status = Schemas["Status"];
export type Message = Schemas["NewMessage"]["message"];
export type SubmitOptions = Partial<Omit<Schemas["NewMessage"], "message">> & { idempotencyKey?: string };
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
export class Treadle {
  readonly connection: Connection;

  constructor(options: ClientOptions = {}) {
    this.connection = new Connection(options);
  }

  /** Submit a message. When this resolves, it is stored durably; a call that is repeated submits once. */
  submit(message: Message, options: SubmitOptions = {}): Promise<Accepted> {
    const { idempotencyKey = randomId(), ...fields } = options;
    return this.#call("POST", "/messages", { body: { message, ...fields }, idempotencyKey });
  }

  /** Submit up to 1,000 messages in this order, all or nothing. */
  async submitMany(messages: Schemas["NewMessage"][], options: { idempotencyKey?: string } = {}): Promise<Accepted[]> {
    const idempotencyKey = options.idempotencyKey ?? randomId();
    const call: CallOptions = { body: { messages }, idempotencyKey };
    return (await this.#call<Schemas["AcceptedBatch"]>("POST", "/messages/batch", call)).messages;
  }

  status(messageId: string): Promise<Status> {
    return this.#call("GET", `/messages/${segment(messageId)}/status`);
  }

  /** Wait until a message is over. */
  async wait(messageId: string, options: { signal?: AbortSignal } = {}): Promise<Status> {
    for await (const _ of this.stream(messageId, options)) {
      // The stream ends with the message.
    }
    return this.status(messageId);
  }

  /** Submit, wait, and return the result. Rejects with MessageEnded if the message has no result. */
  async run(message: Message, options: SubmitOptions & { signal?: AbortSignal } = {}): Promise<unknown> {
    const { signal, ...fields } = options;
    const { message_id: messageId } = await this.submit(message, fields);
    const ended = await this.wait(messageId, signal ? { signal } : {});
    if (ended.state === "completed") return ended.result;
    const state = ended.state === "cancelled" ? "cancelled" : "failed";
    throw new MessageEnded(messageId, state, ended.error ?? `The message is ${ended.state}.`);
  }

  /** Cancel a message. One that runs ends within about a second. */
  async cancel(messageId: string): Promise<void> {
    await this.#call("DELETE", `/messages/${segment(messageId)}`);
  }

  /** Answer the question that a message waits with; `name` is the question's. */
  async answer(messageId: string, input: unknown, name?: string): Promise<void> {
    const body = name === undefined ? { input } : { input, name };
    await this.#call("POST", `/messages/${segment(messageId)}/input`, { body, repeatable: name !== undefined });
  }

  /** Give a failed message a new life. */
  async redrive(messageId: string): Promise<void> {
    await this.#call("POST", `/messages/${segment(messageId)}/redrive`, { repeatable: false });
  }

  /** Run a message that is over again, from this step; the results of the steps before it are kept. */
  async retry(messageId: string, step: string): Promise<void> {
    await this.#call("POST", `/messages/${segment(messageId)}/retry`, { body: { step }, repeatable: false });
  }

  /** A page of the messages that satisfy a filter, the newest first. */
  async messages(filter: MessageFilter & { state?: State | "open" } & PageOptions = {}): Promise<Page<MessageSummary>> {
    const page = await this.#call<Schemas["MessagePage"]>("GET", "/messages", { query: { ...filter } });
    return page.next_cursor ? { items: page.messages, nextCursor: page.next_cursor } : { items: page.messages };
  }

  /** A message with its attempts, steps, tools and the messages that it sent. */
  inspect(messageId: string): Promise<MessageDetails> {
    return this.#call("GET", `/messages/${segment(messageId)}`);
  }

  /** Why a message has not finished, the nearest reason first. */
  async explain(messageId: string): Promise<Schemas["Reason"][]> {
    return (await this.#call<Schemas["Explanation"]>("GET", `/messages/${segment(messageId)}/explain`)).reasons;
  }

  /** Change the priority, the delay or the metadata of a queued message. */
  change(messageId: string, changes: Schemas["MessageChanges"]): Promise<Status> {
    return this.#call("PATCH", `/messages/${segment(messageId)}`, { body: changes });
  }

  /** Cancel the open messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
  cancelMany(selection: Schemas["Selection"] = {}): Promise<Changes> {
    return this.#call("POST", "/messages/cancel", { body: selection });
  }

  /** Redrive the failed messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
  redriveMany(selection: Schemas["Selection"] = {}): Promise<Changes> {
    return this.#call("POST", "/messages/redrive", { body: selection });
  }

  /** The events of a message, up to the one with which it is over. It resumes by itself for as long as it takes. */
  stream(messageId: string, options: StreamOptions = {}): AsyncGenerator<StreamEvent> {
    return follow(this.connection, `/messages/${segment(messageId)}/stream`, options);
  }

  /** The pieces of the answer's text. After `retry` the text begins again: a piece of another attempt has `restart`. */
  async *text(messageId: string, options: StreamOptions = {}): AsyncGenerator<{ text: string; restart: boolean }> {
    let restart = false;
    for await (const event of this.stream(messageId, options)) {
      if (event.type === "retry") restart = true;
      if (event.type !== "chunk") continue;
      yield { text: event.data.chunk as string, restart };
      restart = false;
    }
  }

  /** A chat with a thread over one WebSocket: send messages, and iterate over the events of all of them. */
  chat(threadId: string, options: ChatOptions = {}): Chat {
    if (typeof WebSocket === "undefined") throw new Error("This platform has no WebSocket: browsers and Node 22 have one.");
    return new Chat(this.connection, threadId, options);
  }

  /** All events of a thread. It ends only when the thread is deleted. */
  streamThread(threadId: string, options: StreamOptions = {}): AsyncGenerator<StreamEvent> {
    return follow(this.connection, `/threads/${segment(threadId)}/stream`, options);
  }

  /** The threads, the most recently active first; `q`: a text in their id, metadata or last message. */
  threads(options: PageOptions & { q?: string } = {}): Promise<Page<ThreadSummary>> {
    return this.#page("/threads", { ...options });
  }

  thread(threadId: string): Promise<Thread> {
    return this.#call("GET", `/threads/${segment(threadId)}`);
  }

  async threadMessages(threadId: string, options: PageOptions = {}): Promise<Page<Status>> {
    const path = `/threads/${segment(threadId)}/messages`;
    const page = await this.#call<Schemas["ThreadMessages"]>("GET", path, { query: { ...options } });
    return page.next_cursor ? { items: page.messages, nextCursor: page.next_cursor } : { items: page.messages };
  }

  async threadUsage(threadId: string): Promise<Record<string, number>> {
    return (await this.#call<Schemas["Usage"]>("GET", `/threads/${segment(threadId)}/usage`)).usage;
  }

  /** Replace the metadata of a thread. */
  changeThread(threadId: string, metadata: Record<string, unknown>): Promise<Thread> {
    return this.#call("PATCH", `/threads/${segment(threadId)}`, { body: { metadata } });
  }

  /** Delete a thread with its messages. */
  async deleteThread(threadId: string): Promise<void> {
    await this.#call("DELETE", `/threads/${segment(threadId)}`, { repeatable: false });
  }

  /** Totals of all queues, and the messages that wait or run. */
  overview(): Promise<Schemas["Overview"]> {
    return this.#call("GET", "/queue");
  }

  queues(): Promise<Queue[]> {
    return this.#all("/queues");
  }

  async deadLetters(queue: string, options: PageOptions = {}): Promise<Page<DeadLetter>> {
    const path = `/queues/${segment(queue)}/dead-letters`;
    const page = await this.#call<Schemas["DeadLetters"]>("GET", path, { query: { ...options } });
    return page.next_cursor ? { items: page.dead_letters, nextCursor: page.next_cursor } : { items: page.dead_letters };
  }

  agents(): Promise<Schemas["Agent"][]> {
    return this.#all("/agents");
  }

  workers(): Promise<Schemas["Worker"][]> {
    return this.#all("/workers");
  }

  /** What happened, in steps of time: counts, percentiles, tokens and cost. */
  stats(options: StatsOptions = {}): Promise<Statistics> {
    return this.#call("GET", "/stats", { query: { ...options } });
  }

  /** The warm instances that workers keep, the newest first, at most `limit` (100). */
  async instances(options: { agent?: string; thread_id?: string; limit?: number } = {}): Promise<Instance[]> {
    const { limit = 100, ...filter } = options;
    const found: Instance[] = [];
    let cursor: string | undefined;
    do {
      const query = { ...filter, limit: Math.min(limit - found.length, MAX_PAGE_ITEMS), ...(cursor && { cursor }) };
      const page = await this.#page<Instance>("/instances", query);
      found.push(...page.items);
      cursor = page.nextCursor;
    } while (cursor && found.length < limit);
    return found;
  }

  async dropInstance(agent: string, threadId: string): Promise<void> {
    await this.#call("DELETE", `/instances/${segment(agent)}/${segment(threadId)}`);
  }

  health(): Promise<Schemas["Health"]> {
    return this.#call("GET", "/health");
  }

  /** An access token for a browser, for a thread, a message or a subject. */
  createToken(token: Schemas["NewToken"]): Promise<Schemas["CreatedToken"]> {
    return this.#call("POST", "/tokens", { body: token });
  }

  topics(): Promise<Topic[]> {
    return this.#all("/topics");
  }

  declareTopic(topic: string, options: Schemas["NewTopic"] = {}): Promise<Topic> {
    return this.#call("PUT", `/topics/${segment(topic)}`, { body: options });
  }

  /** Publish records, all or nothing. A call that is repeated stores each once. Returns their ids. */
  async publish(topic: string, ...records: NewRecord[]): Promise<string[]> {
    const body = { records: records.map((record) => ({ record_id: uuid7(), ...record })) };
    const path = `/topics/${segment(topic)}/records`;
    const report = await this.#call<Schemas["DeliveryReport"]>("POST", path, { body });
    return report.records.map((record) => record.record_id);
  }

  /** A page of the records from an offset, a time, `earliest` or `latest` on; `wait`: seconds for the first one. */
  records(
    topic: string,
    options: { offset?: string | number; limit?: number; wait?: number } = {},
  ): Promise<Schemas["RecordPage"]> {
    return this.#call("GET", `/topics/${segment(topic)}/records`, { query: { ...options } });
  }

  /** The records of a topic, from `from` on (default: `latest`). It resumes by itself, until the topic is deleted. */
  async *streamTopic(
    topic: string,
    options: { from?: string | number; signal?: AbortSignal } = {},
  ): AsyncGenerator<TopicRecord> {
    const path = `/topics/${segment(topic)}/stream?from=${segment(String(options.from ?? "latest"))}`;
    for await (const event of follow(this.connection, path, options.signal ? { signal: options.signal } : {})) {
      if (event.type === "record") yield event.data as TopicRecord;
      if (event.type === "deleted") return;
    }
  }

  /** Declare a subscription: each record of its topics becomes a message for its agent. */
  subscribe(name: string, subscription: Schemas["NewSubscription"]): Promise<Subscription> {
    return this.#call("PUT", `/subscriptions/${segment(name)}`, { body: subscription });
  }

  #call<T>(method: string, path: string, options: CallOptions = {}): Promise<T> {
    return this.connection.call<T>(method, path, options);
  }

  /** A page of a list whose next page is told in the header `Link`. */
  async #page<T>(path: string, query: NonNullable<CallOptions["query"]>): Promise<Page<T>> {
    const answer = await this.connection.send("GET", path, { query });
    const next = /[?&]cursor=([^&>]+)[^>]*>; *rel="?next/.exec(answer.headers.get("link") ?? "")?.[1];
    const items = (await answer.json()) as T[];
    return next ? { items, nextCursor: decodeURIComponent(next) } : { items };
  }

  /** All items of such a list, page by page. */
  async #all<T>(path: string): Promise<T[]> {
    let page = await this.#page<T>(path, {});
    const found = page.items;
    while (page.nextCursor) {
      page = await this.#page<T>(path, { cursor: page.nextCursor });
      found.push(...page.items);
    }
    return found;
  }
}
