import { backoff, randomId, sleep } from "./connection.js";
import { ApiError, Unavailable } from "./errors.js";
const FOR_GOOD = 1008; // the close code after which a client does not come back
/**
 * The events and the inputs of one thread over one WebSocket. Iterate over it for the events. It comes back after the last
 * one for as long as it takes; inputs are sent again until they are accepted, and submitted once.
 */
export class Chat {
    lastId;
    log;
    #threadId;
    #agent;
    #connection;
    #events = [];
    #inputs = new Map();
    #closing = new AbortController();
    #socket;
    #refusal = "";
    #failure;
    #changed = () => { };
    constructor(connection, threadId, { agent, lastId = 0, log }) {
        this.#connection = connection;
        this.#threadId = threadId;
        this.#agent = agent;
        this.lastId = lastId;
        this.log = log;
        this.#run().catch((error) => this.#end(error));
    }
    /** A message for the thread. Resolves when it is stored durably, with its id. Rejects with ApiError if it is refused. */
    send(message, options = {}) {
        if (this.#failure)
            return Promise.reject(this.#failure);
        const key = randomId();
        const frame = JSON.stringify({ type: "user_input", message, key, ...options });
        return new Promise((resolve, reject) => {
            this.#inputs.set(key, { frame, resolve, reject });
            if (this.#socket?.readyState === WebSocket.OPEN)
                this.#socket.send(frame); // else it is sent by the next one
        });
    }
    /** Close the socket. It stops no agent. */
    close() {
        this.#end(new Unavailable("The chat is closed."));
    }
    async *[Symbol.asyncIterator]() {
        for (;;) {
            const event = this.#events.shift();
            if (event)
                yield event;
            else if (this.#closing.signal.aborted) {
                if (this.#failure instanceof ApiError)
                    throw this.#failure;
                return;
            }
            else
                await new Promise((resolve) => (this.#changed = resolve));
        }
    }
    #end(failure) {
        this.#failure ??= failure;
        this.#closing.abort();
        this.#socket?.close();
        for (const { reject } of this.#inputs.values())
            reject(this.#failure);
        this.#inputs.clear();
        this.#changed();
    }
    async #run() {
        for (let failures = 0; !this.#closing.signal.aborted;) {
            const [opened, code] = await this.#talk();
            if (code === FOR_GOOD)
                throw new ApiError(403, this.#refusal || "The server refuses this chat.");
            failures = opened ? 1 : failures + 1;
            await sleep(backoff(failures), this.#closing.signal).catch(() => { });
        }
    }
    /** Until the socket is closed: whether it was open, and the code. */
    #talk() {
        return new Promise((resolve) => {
            let opened = false;
            const socket = new WebSocket(this.#address());
            this.#socket = socket;
            socket.onopen = () => {
                opened = true;
                if (this.#closing.signal.aborted)
                    socket.close();
                else
                    for (const { frame } of this.#inputs.values())
                        socket.send(frame);
            };
            socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)));
            socket.onclose = ({ code }) => resolve([opened, code]);
        });
    }
    #take(frame) {
        if (frame.event !== undefined) {
            this.lastId = frame.id ?? this.lastId;
            const message = frame.message_id === undefined ? {} : { messageId: frame.message_id };
            this.#add({ id: String(frame.id), type: frame.event, data: frame.data, ...message });
        }
        else if (frame.type === "error") {
            this.#refuse(frame);
        }
        else if (frame.status === "open") {
            this.log = frame.log;
        }
        else if (frame.status === "accepted" && frame.key !== undefined) {
            this.#inputs.get(frame.key)?.resolve(frame.message_id ?? "");
            this.#inputs.delete(frame.key);
        }
        else if (frame.status === "deleted" || frame.status === "gap") {
            this.lastId = frame.status === "gap" ? (frame.next ?? 1) - 1 : 0;
            this.#add({ type: frame.status, data: { after: frame.after, next: frame.next } });
        }
    }
    #refuse(frame) {
        this.#refusal = frame.detail ?? "";
        const key = frame.key ?? this.#inputs.keys().next().value;
        const input = key === undefined ? undefined : this.#inputs.get(key);
        if (key === undefined || !input)
            return;
        const socket = this.#socket;
        if (frame.retry_after !== undefined) {
            const again = () => {
                if (socket?.readyState === WebSocket.OPEN)
                    socket.send(input.frame);
            };
            sleep(frame.retry_after * 1000, this.#closing.signal).then(again, () => { });
            return;
        }
        input.reject(new ApiError(422, this.#refusal));
        this.#inputs.delete(key);
    }
    #add(event) {
        this.#events.push(event);
        this.#changed();
    }
    #address() {
        const query = new URLSearchParams({ thread_id: this.#threadId, last_event_id: String(this.lastId) });
        if (this.log !== undefined)
            query.set("log", String(this.log));
        if (this.#agent !== undefined)
            query.set("agent", this.#agent);
        const { url, key } = this.#connection;
        if (key !== undefined)
            query.set("token", key); // pages cannot set headers of a WebSocket
        return `${url.replace(/^http/, "ws")}/ws/chat?${query}`;
    }
}
