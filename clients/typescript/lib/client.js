import { Chat } from "./chat.js";
import { Connection, randomId, segment, uuid7 } from "./connection.js";
import { MessageEnded } from "./errors.js";
import { follow } from "./streams.js";
const MAX_PAGE_ITEMS = 1_000; // of one answer
/** A client of one server, in Node and in browsers. */
export class Treadle {
    connection;
    constructor(options = {}) {
        this.connection = new Connection(options);
    }
    /** Submit a message. When this resolves, it is stored durably; a call that is repeated submits once. */
    submit(message, options = {}) {
        const { idempotencyKey = randomId(), ...fields } = options;
        return this.#call("POST", "/messages", { body: { message, ...fields }, idempotencyKey });
    }
    /** Submit up to 1,000 messages in this order, all or nothing. */
    async submitMany(messages, options = {}) {
        const idempotencyKey = options.idempotencyKey ?? randomId();
        const call = { body: { messages }, idempotencyKey };
        return (await this.#call("POST", "/messages/batch", call)).messages;
    }
    status(messageId) {
        return this.#call("GET", `/messages/${segment(messageId)}/status`);
    }
    /** Wait until a message is over. */
    async wait(messageId, options = {}) {
        for await (const _ of this.stream(messageId, options)) {
            // The stream ends with the message.
        }
        return this.status(messageId);
    }
    /** Submit, wait, and return the result. Rejects with MessageEnded if the message has no result. */
    async run(message, options = {}) {
        const { signal, ...fields } = options;
        const { message_id: messageId } = await this.submit(message, fields);
        const ended = await this.wait(messageId, signal ? { signal } : {});
        if (ended.state === "completed")
            return ended.result;
        const state = ended.state === "cancelled" ? "cancelled" : "failed";
        throw new MessageEnded(messageId, state, ended.error ?? `The message is ${ended.state}.`);
    }
    /** Cancel a message. One that runs ends within about a second. */
    async cancel(messageId) {
        await this.#call("DELETE", `/messages/${segment(messageId)}`);
    }
    /** Answer the question that a message waits with; `name` is the question's. */
    async answer(messageId, input, name) {
        const body = name === undefined ? { input } : { input, name };
        await this.#call("POST", `/messages/${segment(messageId)}/input`, { body, repeatable: name !== undefined });
    }
    /** Give a failed message a new life. */
    async redrive(messageId) {
        await this.#call("POST", `/messages/${segment(messageId)}/redrive`, { repeatable: false });
    }
    /** Run a message that is over again, from this step; the results of the steps before it are kept. */
    async retry(messageId, step) {
        await this.#call("POST", `/messages/${segment(messageId)}/retry`, { body: { step }, repeatable: false });
    }
    /** A page of the messages that satisfy a filter, the newest first. */
    async messages(filter = {}) {
        const page = await this.#call("GET", "/messages", { query: { ...filter } });
        return page.next_cursor ? { items: page.messages, nextCursor: page.next_cursor } : { items: page.messages };
    }
    /** A message with its attempts, steps, tools and the messages that it sent. */
    inspect(messageId) {
        return this.#call("GET", `/messages/${segment(messageId)}`);
    }
    /** Why a message has not finished, the nearest reason first. */
    async explain(messageId) {
        return (await this.#call("GET", `/messages/${segment(messageId)}/explain`)).reasons;
    }
    /** Change the priority, the delay or the metadata of a queued message. */
    change(messageId, changes) {
        return this.#call("PATCH", `/messages/${segment(messageId)}`, { body: changes });
    }
    /** Cancel the open messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
    cancelMany(selection = {}) {
        return this.#call("POST", "/messages/cancel", { body: selection });
    }
    /** Redrive the failed messages that satisfy a filter, or (`preview`, the default) count them: one part of them. */
    redriveMany(selection = {}) {
        return this.#call("POST", "/messages/redrive", { body: selection });
    }
    /** The events of a message, up to the one with which it is over. It resumes by itself for as long as it takes. */
    stream(messageId, options = {}) {
        return follow(this.connection, `/messages/${segment(messageId)}/stream`, options);
    }
    /** The pieces of the answer's text. After `retry` the text begins again: a piece of another attempt has `restart`. */
    async *text(messageId, options = {}) {
        let restart = false;
        for await (const event of this.stream(messageId, options)) {
            if (event.type === "retry")
                restart = true;
            if (event.type !== "chunk")
                continue;
            yield { text: event.data.chunk, restart };
            restart = false;
        }
    }
    /** A chat with a thread over one WebSocket: send messages, and iterate over the events of all of them. */
    chat(threadId, options = {}) {
        if (typeof WebSocket === "undefined")
            throw new Error("This platform has no WebSocket: browsers and Node 22 have one.");
        return new Chat(this.connection, threadId, options);
    }
    /** All events of a thread. It ends only when the thread is deleted. */
    streamThread(threadId, options = {}) {
        return follow(this.connection, `/threads/${segment(threadId)}/stream`, options);
    }
    /** The threads, the most recently active first; `q`: a text in their id, metadata or last message. */
    threads(options = {}) {
        return this.#page("/threads", { ...options });
    }
    thread(threadId) {
        return this.#call("GET", `/threads/${segment(threadId)}`);
    }
    async threadMessages(threadId, options = {}) {
        const path = `/threads/${segment(threadId)}/messages`;
        const page = await this.#call("GET", path, { query: { ...options } });
        return page.next_cursor ? { items: page.messages, nextCursor: page.next_cursor } : { items: page.messages };
    }
    async threadUsage(threadId) {
        return (await this.#call("GET", `/threads/${segment(threadId)}/usage`)).usage;
    }
    /** Replace the metadata of a thread. */
    changeThread(threadId, metadata) {
        return this.#call("PATCH", `/threads/${segment(threadId)}`, { body: { metadata } });
    }
    /** Delete a thread with its messages. */
    async deleteThread(threadId) {
        await this.#call("DELETE", `/threads/${segment(threadId)}`, { repeatable: false });
    }
    /** Totals of all queues, and the messages that wait or run. */
    overview() {
        return this.#call("GET", "/queue");
    }
    queues() {
        return this.#all("/queues");
    }
    async deadLetters(queue, options = {}) {
        const path = `/queues/${segment(queue)}/dead-letters`;
        const page = await this.#call("GET", path, { query: { ...options } });
        return page.next_cursor ? { items: page.dead_letters, nextCursor: page.next_cursor } : { items: page.dead_letters };
    }
    agents() {
        return this.#all("/agents");
    }
    workers() {
        return this.#all("/workers");
    }
    /** What happened, in steps of time: counts, percentiles, tokens and cost. */
    stats(options = {}) {
        return this.#call("GET", "/stats", { query: { ...options } });
    }
    /** The warm instances that workers keep, the newest first, at most `limit` (100). */
    async instances(options = {}) {
        const { limit = 100, ...filter } = options;
        const found = [];
        let cursor;
        do {
            const query = { ...filter, limit: Math.min(limit - found.length, MAX_PAGE_ITEMS), ...(cursor && { cursor }) };
            const page = await this.#page("/instances", query);
            found.push(...page.items);
            cursor = page.nextCursor;
        } while (cursor && found.length < limit);
        return found;
    }
    async dropInstance(agent, threadId) {
        await this.#call("DELETE", `/instances/${segment(agent)}/${segment(threadId)}`);
    }
    health() {
        return this.#call("GET", "/health");
    }
    /** An access token for a browser, for a thread, a message or a subject. */
    createToken(token) {
        return this.#call("POST", "/tokens", { body: token });
    }
    topics() {
        return this.#all("/topics");
    }
    declareTopic(topic, options = {}) {
        return this.#call("PUT", `/topics/${segment(topic)}`, { body: options });
    }
    /** Publish records, all or nothing. A call that is repeated stores each once. Returns their ids. */
    async publish(topic, ...records) {
        const body = { records: records.map((record) => ({ record_id: uuid7(), ...record })) };
        const path = `/topics/${segment(topic)}/records`;
        const report = await this.#call("POST", path, { body });
        return report.records.map((record) => record.record_id);
    }
    /** A page of the records from an offset, a time, `earliest` or `latest` on; `wait`: seconds for the first one. */
    records(topic, options = {}) {
        return this.#call("GET", `/topics/${segment(topic)}/records`, { query: { ...options } });
    }
    /** The records of a topic, from `from` on (default: `latest`). It resumes by itself, until the topic is deleted. */
    async *streamTopic(topic, options = {}) {
        const path = `/topics/${segment(topic)}/stream?from=${segment(String(options.from ?? "latest"))}`;
        for await (const event of follow(this.connection, path, options.signal ? { signal: options.signal } : {})) {
            if (event.type === "record")
                yield event.data;
            if (event.type === "deleted")
                return;
        }
    }
    /** Declare a subscription: each record of its topics becomes a message for its agent. */
    subscribe(name, subscription) {
        return this.#call("PUT", `/subscriptions/${segment(name)}`, { body: subscription });
    }
    #call(method, path, options = {}) {
        return this.connection.call(method, path, options);
    }
    /** A page of a list whose next page is told in the header `Link`. */
    async #page(path, query) {
        const answer = await this.connection.send("GET", path, { query });
        const next = /[?&]cursor=([^&>]+)[^>]*>; *rel="?next/.exec(answer.headers.get("link") ?? "")?.[1];
        const items = (await answer.json());
        return next ? { items, nextCursor: decodeURIComponent(next) } : { items };
    }
    /** All items of such a list, page by page. */
    async #all(path) {
        let page = await this.#page(path, {});
        const found = page.items;
        while (page.nextCursor) {
            page = await this.#page(path, { cursor: page.nextCursor });
            found.push(...page.items);
        }
        return found;
    }
}
