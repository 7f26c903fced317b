import { Rejected, RetryAfter } from "./agent.js";
import { segment, sleep } from "./connection.js";
import { ApiError, LeaseLost, Unavailable } from "./errors.js";
const HIGH_WATER = 1_000_000;
const CALL_EVENTS = 500;
const CALL_CHARS = 256_000;
const CHUNK_CHARS = 50_000;
const RETRY = 1000;
/** One attempt at one message. */
export class Attempt {
    lease;
    #claim;
    #run;
    #connection;
    #path;
    #abort = new AbortController();
    #reason;
    #unsent = [];
    #chars = 0;
    #nextSeq;
    #chunks = 0;
    #sending;
    #closed = false;
    #counts;
    constructor(claim, run, connection, workerId) {
        this.#claim = claim;
        this.#run = run;
        this.#connection = connection;
        this.#path = `/workers/${segment(workerId)}`;
        this.#nextSeq = claim.last_seq + 1;
        this.lease = { message_id: claim.message_id, lease: claim.lease };
    }
    /** End it early; the first reason counts. */
    stop(reason) {
        this.#reason ??= reason;
        this.#abort.abort(new Error(`The attempt is over: ${reason}.`));
    }
    /** Resolves when the server knows the end, or when the lease is lost. */
    async run() {
        const timeout = this.#claim.timeout_seconds;
        const timer = setTimeout(() => this.stop("timeout"), Math.min(timeout * 1000, 2 ** 31 - 1));
        const ending = await this.#execute(timeout);
        clearTimeout(timer);
        this.#closed = true;
        await this.#sending;
        if (this.#reason === "lost")
            return;
        const body = { ...ending, ...(this.#counts ? { usage: this.#counts } : {}), events: this.#unsent };
        try {
            await this.#finish(body);
        }
        catch (error) {
            if (!(error instanceof ApiError))
                throw error;
            // The server does not accept the result or an event.
            await this.#finish({ outcome: "failed", error: error.detail, events: [] });
        }
    }
    async #finish(ending) {
        await this.#write("/finish", { attempt: this.#claim.attempt, first_seq: this.#nextSeq, ...ending });
    }
    async #execute(timeout) {
        const stopped = new Promise((_, reject) => {
            this.#abort.signal.addEventListener("abort", () => reject(this.#abort.signal.reason), { once: true });
        });
        stopped.catch(() => { });
        try {
            this.#abort.signal.throwIfAborted();
            const result = await Promise.race([Promise.resolve(this.#run(this.#context(), this.#claim.message)), stopped]);
            return { outcome: "completed", result: result === undefined ? null : result };
        }
        catch (error) {
            if (this.#reason === "released")
                return { outcome: "released" };
            if (this.#reason === "timeout")
                return { outcome: "retry", error: `The attempt took longer than ${timeout} seconds.` };
            if (this.#reason !== undefined)
                return { outcome: "failed", error: describe(this.#reason) };
            if (error instanceof Rejected)
                return { outcome: "failed", error: error.message || "Rejected." };
            if (error instanceof RetryAfter)
                return { outcome: "retry", error: error.message, retry_after: error.seconds };
            return { outcome: "retry", error: describe(error) };
        }
    }
    #context() {
        const claim = this.#claim;
        const steps = new Map(Object.entries(claim.steps));
        const begun = new Set();
        return {
            messageId: claim.message_id,
            threadId: claim.thread_id,
            attempt: claim.attempt,
            metadata: claim.metadata,
            memory: claim.memory,
            signal: this.#abort.signal,
            emit: async (text) => {
                for (let start = 0; start < text.length; start += CHUNK_CHARS) {
                    const chunk = text.slice(start, start + CHUNK_CHARS);
                    await this.#put({ type: "chunk", data: { chunk, index: this.#chunks++ } });
                }
            },
            event: (type, data) => this.#put({ type, data }),
            step: async (name, run) => {
                if (begun.has(name))
                    throw new Error(`This attempt has already begun the step ${name}: give each step its own name.`);
                begun.add(name);
                if (steps.has(name))
                    return steps.get(name);
                const result = await run();
                await this.#put({ type: "step", data: { name, result: result === undefined ? null : result } }, true);
                return result;
            },
            usage: (counts) => {
                this.#counts = { ...this.#counts, ...counts };
            },
        };
    }
    /** Buffer an event; `saved`: resolve when it is in the log. */
    async #put(event, saved = false) {
        this.#abort.signal.throwIfAborted();
        if (this.#closed)
            throw new Error("The attempt is over.");
        this.#unsent.push(event);
        this.#chars += JSON.stringify(event).length;
        const seq = this.#nextSeq + this.#unsent.length - 1;
        this.#sending ??= this.#send();
        while (this.#sending !== undefined && (saved ? this.#nextSeq <= seq : this.#chars > HIGH_WATER))
            await this.#oneSent();
        if (saved && this.#nextSeq <= seq)
            throw this.#abort.signal.reason ?? new Error("The attempt is over.");
    }
    #sent = [];
    #oneSent() {
        return new Promise((resolve) => this.#sent.push(resolve));
    }
    async #send() {
        try {
            while (this.#unsent.length > 0 && !this.#closed) {
                const events = this.#nextEvents();
                const body = { first_seq: this.#nextSeq, events };
                const answer = await this.#write("/append", body);
                this.#unsent.splice(0, events.length);
                this.#nextSeq += events.length;
                this.#chars = this.#unsent.reduce((sum, event) => sum + JSON.stringify(event).length, 0);
                if (answer.cancel_requested)
                    this.stop("cancelled");
                this.#tell();
            }
        }
        catch (error) {
            this.#unsent = [];
            this.#closed = true;
            this.stop(error instanceof LeaseLost ? "lost" : error);
        }
        finally {
            this.#sending = undefined;
            this.#tell();
        }
    }
    #tell() {
        for (const resolve of this.#sent.splice(0))
            resolve();
    }
    #nextEvents() {
        const events = [];
        let chars = 0;
        for (const event of this.#unsent) {
            const size = JSON.stringify(event).length;
            if (events.length > 0 && (events.length === CALL_EVENTS || chars + size > CALL_CHARS))
                break;
            events.push(event);
            chars += size;
        }
        return events;
    }
    /** A write, repeated however long the server is away: the lease may still be ours when it returns. */
    async #write(call, fields) {
        for (;;) {
            try {
                return await this.#connection.call("POST", this.#path + call, { body: { ...this.lease, ...fields } });
            }
            catch (error) {
                if (error instanceof ApiError && error.status === 409 && error.retryAfter === undefined)
                    throw new LeaseLost(error.detail);
                if (this.#reason === "lost")
                    throw new LeaseLost("The lease is lost.");
                if (!(error instanceof Unavailable) && !(error instanceof ApiError && [409, 429].includes(error.status)))
                    throw error;
                await sleep(RETRY);
            }
        }
    }
}
function describe(error) {
    if (error === "cancelled")
        return "Cancelled.";
    return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}
