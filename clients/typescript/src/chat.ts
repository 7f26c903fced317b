import { backoff, type Connection, randomId, sleep } from "./connection.js";
import { ApiError, Unavailable } from "./errors.js";
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

export type ChatInput = Partial<
  Pick<components["schemas"]["NewMessage"], "agent" | "priority" | "metadata" | "aside" | "on_busy">
>;

interface Frame {
  type: string;
  id?: number;
  message_id?: string;
  event?: string;
  data?: unknown;
  status?: string;
  log?: number;
  key?: string;
  detail?: string;
  retry_after?: number;
  after?: number;
  next?: number;
}

interface Input {
  frame: string;
  resolve: (messageId: string) => void;
  reject: (error: Error) => void;
}

const FOR_GOOD = 1008; // the close code after which a client does not come back

/**
 * The events and the inputs of one thread over one WebSocket. Iterate over it for the events. It comes back after the last
 * one for as long as it takes; inputs are sent again until they are accepted, and submitted once.
 */
export class Chat implements AsyncIterable<ChatEvent> {
  lastId: number;
  log: number | undefined;
  readonly #threadId: string;
  readonly #agent: string | undefined;
  readonly #connection: Connection;
  readonly #events: ChatEvent[] = [];
  readonly #inputs = new Map<string, Input>();
  readonly #closing = new AbortController();
  #socket: WebSocket | undefined;
  #refusal = "";
  #failure: Error | undefined;
  #changed: () => void = () => {};

  constructor(connection: Connection, threadId: string, { agent, lastId = 0, log }: ChatOptions) {
    this.#connection = connection;
    this.#threadId = threadId;
    this.#agent = agent;
    this.lastId = lastId;
    this.log = log;
    this.#run().catch((error) => this.#end(error));
  }

  /** A message for the thread. Resolves when it is stored durably, with its id. Rejects with ApiError if it is refused. */
  send(message: string | Record<string, unknown>, options: ChatInput = {}): Promise<string> {
    if (this.#failure) return Promise.reject(this.#failure);
    const key = randomId();
    const frame = JSON.stringify({ type: "user_input", message, key, ...options });
    return new Promise((resolve, reject) => {
      this.#inputs.set(key, { frame, resolve, reject });
      if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame); // else it is sent by the next one
    });
  }

  /** Close the socket. It stops no agent. */
  close(): void {
    this.#end(new Unavailable("The chat is closed."));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChatEvent> {
    for (;;) {
      const event = this.#events.shift();
      if (event) yield event;
      else if (this.#closing.signal.aborted) {
        if (this.#failure instanceof ApiError) throw this.#failure;
        return;
      } else await new Promise<void>((resolve) => (this.#changed = resolve));
    }
  }

  #end(failure: Error): void {
    this.#failure ??= failure;
    this.#closing.abort();
    this.#socket?.close();
    for (const { reject } of this.#inputs.values()) reject(this.#failure);
    this.#inputs.clear();
    this.#changed();
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#closing.signal.aborted; ) {
      const [opened, code] = await this.#talk();
      if (code === FOR_GOOD) throw new ApiError(403, this.#refusal || "The server refuses this chat.");
      failures = opened ? 1 : failures + 1;
      await sleep(backoff(failures), this.#closing.signal).catch(() => {});
    }
  }

  /** Until the socket is closed: whether it was open, and the code. */
  #talk(): Promise<[boolean, number]> {
    return new Promise((resolve) => {
      let opened = false;
      const socket = new WebSocket(this.#address());
      this.#socket = socket;
      socket.onopen = () => {
        opened = true;
        if (this.#closing.signal.aborted) socket.close();
        else for (const { frame } of this.#inputs.values()) socket.send(frame);
      };
      socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)));
      socket.onclose = ({ code }) => resolve([opened, code]);
    });
  }

  #take(frame: Frame): void {
    if (frame.event !== undefined) {
      this.lastId = frame.id ?? this.lastId;
      const message = frame.message_id === undefined ? {} : { messageId: frame.message_id };
      this.#add({ id: String(frame.id), type: frame.event, data: frame.data, ...message });
    } else if (frame.type === "error") {
      this.#refuse(frame);
    } else if (frame.status === "open") {
      this.log = frame.log;
    } else if (frame.status === "accepted" && frame.key !== undefined) {
      this.#inputs.get(frame.key)?.resolve(frame.message_id ?? "");
      this.#inputs.delete(frame.key);
    } else if (frame.status === "deleted" || frame.status === "gap") {
      this.lastId = frame.status === "gap" ? (frame.next ?? 1) - 1 : 0;
      this.#add({ type: frame.status, data: { after: frame.after, next: frame.next } });
    }
  }

  #refuse(frame: Frame): void {
    this.#refusal = frame.detail ?? "";
    const key = frame.key ?? this.#inputs.keys().next().value;
    const input = key === undefined ? undefined : this.#inputs.get(key);
    if (key === undefined || !input) return;
    const socket = this.#socket;
    if (frame.retry_after !== undefined) {
      const again = () => {
        if (socket?.readyState === WebSocket.OPEN) socket.send(input.frame);
      };
      sleep(frame.retry_after * 1000, this.#closing.signal).then(again, () => {});
      return;
    }
    input.reject(new ApiError(422, this.#refusal));
    this.#inputs.delete(key);
  }

  #add(event: ChatEvent): void {
    this.#events.push(event);
    this.#changed();
  }

  #address(): string {
    const query = new URLSearchParams({ thread_id: this.#threadId, last_event_id: String(this.lastId) });
    if (this.log !== undefined) query.set("log", String(this.log));
    if (this.#agent !== undefined) query.set("agent", this.#agent);
    const { url, key } = this.#connection;
    if (key !== undefined) query.set("token", key); // pages cannot set headers of a WebSocket
    return `${url.replace(/^http/, "ws")}/ws/chat?${query}`;
  }
}
