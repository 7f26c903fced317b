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
  status?: string | number; // the news of a status frame, or the HTTP status of an error
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
  /** It was refused for now, and a timer sends it again. */
  repeating?: boolean;
}

/** An id and the log that it belongs to. */
interface Position {
  id: number;
  log: number | undefined;
}

const FOR_GOOD = 1008; // the close code after which a client does not come back
const TOO_BIG = 1009; // a frame of the client was larger than the server takes
const TROUBLED = [1011, 1013]; // the server cannot serve the socket now
const TROUBLED_MILLISECONDS = 1000; // that the client waits at least after these
const OPEN_MILLISECONDS = 10_000; // that a socket may take to open: not every platform bounds it
const MAX_BUFFERED = 10_000; // events that wait for their reader; the server sends later ones again

/**
 * The events and the inputs of one thread over one WebSocket. Iterate over it for the events. It comes back after the last
 * one for as long as it takes; inputs are sent again until they are accepted, and submitted once. `lastId` and `log` are
 * those of the last event that the reader received.
 */
export class Chat implements AsyncIterable<ChatEvent> {
  lastId: number;
  log: number | undefined;
  readonly #threadId: string;
  readonly #agent: string | undefined;
  readonly #connection: Connection;
  readonly #events: [ChatEvent, Position][] = [];
  readonly #inputs = new Map<string, Input>();
  readonly #closing = new AbortController();
  readonly #waiters = new Set<() => void>();
  #socket: WebSocket | undefined;
  #opening: ReturnType<typeof setTimeout> | undefined; // gives a socket up that does not open
  #received: Position; // of the last frame, which may wait in #events
  #behind = false; // events of this socket were dropped because the buffer is full
  #refusal: Frame | undefined; // the last error that was about no input
  #failures = 0; // sockets since the last one that the server opened
  #failure: Error | undefined;
  #closed = false;

  constructor(connection: Connection, threadId: string, { agent, lastId = 0, log }: ChatOptions) {
    this.#connection = connection;
    this.#threadId = threadId;
    this.#agent = agent;
    this.lastId = lastId;
    this.log = log;
    this.#received = { id: lastId, log };
    this.#run().catch((error) => this.#end(error));
  }

  /** A message for the thread. Resolves when it is stored durably, with its id. Rejects with ApiError if it is refused. */
  send(message: string | Record<string, unknown>, options: ChatInput = {}): Promise<string> {
    if (this.#failure) return Promise.reject(this.#failure);
    const key = randomId();
    // The key comes first: the server finds it there even if it cannot read the message.
    const frame = JSON.stringify({ type: "user_input", key, message, ...options });
    return new Promise((resolve, reject) => {
      this.#inputs.set(key, { frame, resolve, reject });
      this.#submit(frame);
    });
  }

  /** Close the socket. It stops no agent. */
  close(): void {
    this.#closed = true;
    this.#end(new Unavailable("The chat is closed."));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChatEvent> {
    for (;;) {
      const next = this.#events.shift();
      if (next) {
        const [event, { id, log }] = next;
        this.lastId = id;
        this.log = log;
        yield event;
      } else if (this.#closing.signal.aborted) {
        if (this.#closed) return;
        throw this.#failure;
      } else {
        if (this.#behind) this.#socket?.close(); // the next socket sends what was dropped
        await new Promise<void>((resolve) => this.#waiters.add(resolve));
      }
    }
  }

  #end(failure: Error): void {
    this.#failure ??= failure;
    this.#closing.abort();
    clearTimeout(this.#opening);
    this.#socket?.close();
    for (const { reject } of this.#inputs.values()) reject(this.#failure);
    this.#inputs.clear();
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiters) wake();
    this.#waiters.clear();
  }

  #submit(frame: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame); // else the next socket sends it
  }

  async #run(): Promise<void> {
    while (!this.#closing.signal.aborted) {
      const code = await this.#talk();
      if (code === FOR_GOOD) throw refused(this.#refusal, 403, "The server refuses this chat.");
      if (code === TOO_BIG) this.#refuseLargest();
      const least = TROUBLED.includes(code) ? TROUBLED_MILLISECONDS : 0;
      await sleep(Math.max(backoff(++this.#failures), least), this.#closing.signal).catch(() => {});
    }
  }

  /** Until the socket is closed; the close code. */
  #talk(): Promise<number> {
    return new Promise((resolve, reject) => {
      let opened = false;
      const socket = new WebSocket(this.#address());
      const opening = setTimeout(() => {
        socket.close();
        resolve(1006);
      }, OPEN_MILLISECONDS);
      this.#opening = opening;
      this.#socket = socket;
      this.#behind = false;
      this.#refusal = undefined;
      socket.onopen = () => {
        opened = true;
        clearTimeout(opening);
        if (this.#closing.signal.aborted || this.#socket !== socket) return socket.close();
        const { key } = this.#connection;
        // Pages cannot set headers of a WebSocket, and servers and proxies write an address to their logs.
        if (key !== undefined) socket.send(JSON.stringify({ type: "auth", token: key }));
        for (const { frame } of this.#inputs.values()) socket.send(frame);
      };
      socket.onmessage = ({ data }) => {
        try {
          this.#take(JSON.parse(String(data)));
        } catch (error) {
          reject(error);
        }
      };
      socket.onclose = ({ code }) => {
        clearTimeout(opening);
        resolve(code);
      };
      socket.onerror = () => {
        clearTimeout(opening);
        if (!opened) resolve(1006); // Node 22 fires no `close` for a socket that was never open
      };
    });
  }

  #take(frame: Frame): void {
    if (frame.event !== undefined) {
      const message = frame.message_id === undefined ? {} : { messageId: frame.message_id };
      this.#add({ id: String(frame.id), type: frame.event, data: frame.data, ...message }, frame.id ?? this.#received.id);
    } else if (frame.type === "error") {
      this.#refuse(frame);
    } else if (frame.status === "open") {
      this.#failures = 0;
      if (this.#behind) return;
      this.#received = { id: this.#received.id, log: frame.log };
      if (this.log === undefined || !this.lastId) this.log = frame.log; // else lastId may be of another log
    } else if (frame.status === "accepted" && frame.key !== undefined) {
      this.#inputs.get(frame.key)?.resolve(frame.message_id ?? "");
      this.#inputs.delete(frame.key);
    } else if (frame.status === "deleted" || frame.status === "gap") {
      const id = frame.status === "gap" ? (frame.next ?? 1) - 1 : 0;
      this.#add({ type: frame.status, data: { after: frame.after, next: frame.next } }, id);
    }
  }

  #refuse(frame: Frame): void {
    const { key, retry_after } = frame;
    if (key === undefined) {
      this.#refusal = frame;
      return;
    }
    const input = this.#inputs.get(key);
    if (retry_after === undefined) return this.#fail(key, refused(frame, 422, "The server refuses this input."));
    if (!input || input.repeating) return;
    const again = () => {
      input.repeating = false;
      if (this.#inputs.has(key)) this.#submit(input.frame);
    };
    input.repeating = true;
    sleep(retry_after * 1000, this.#closing.signal).then(again, () => {});
  }

  /** The server read a frame that is too large. If any input is too large, the largest one is. */
  #refuseLargest(): void {
    const encoder = new TextEncoder();
    const sizes = [...this.#inputs].map(([key, { frame }]) => ({ key, size: encoder.encode(frame).length }));
    const [largest] = sizes.sort((one, other) => other.size - one.size);
    if (largest) this.#fail(largest.key, new ApiError(413, "The input is larger than the server's MAX_BODY_BYTES."));
  }

  #fail(key: string, error: ApiError): void {
    this.#inputs.get(key)?.reject(error);
    this.#inputs.delete(key);
  }

  #add(event: ChatEvent, id: number): void {
    this.#behind ||= this.#events.length >= MAX_BUFFERED;
    if (this.#behind) return;
    this.#received = { id, log: this.#received.log };
    this.#events.push([event, this.#received]);
    this.#wake();
  }

  #address(): string {
    const { id, log } = this.#received;
    const query = new URLSearchParams({ thread_id: this.#threadId, last_event_id: String(id) });
    if (log !== undefined) query.set("log", String(log));
    if (this.#agent !== undefined) query.set("agent", this.#agent);
    return `${this.#connection.url.replace(/^http/, "ws")}/ws/chat?${query}`;
  }
}

/** The error of an error frame; the status and the detail are for one that has none. */
function refused(frame: Frame | undefined, status: number, detail: string): ApiError {
  return new ApiError(typeof frame?.status === "number" ? frame.status : status, frame?.detail || detail);
}
