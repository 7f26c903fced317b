import { ChildFailed, Overloaded, Rejected, RetryAfter } from "./agent.js";
import { segment, sleep } from "./connection.js";
import { ApiError, LeaseLost, Unavailable } from "./errors.js";
import { same, storable } from "./json.js";
import { meaning } from "./overload.js";
/** The question of an attempt that ends until a person answers. */
class Asked {
    name;
    question;
    constructor(name, question) {
        this.name = name;
        this.question = question;
    }
}
/** The messages of an attempt that ends until all of them are over. */
class Waiting {
    children;
    constructor(children) {
        this.children = children;
    }
}
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
    #toSend = { sends: [], records: [] };
    #placed = new Map(); // messages to send, by id: whose turn each takes
    #chars = 0;
    #nextSeq;
    #chunks = 0;
    #sending;
    #closed = false;
    #counts = new Map(); // by step; what the agent counts has none
    #memory;
    constructor(claim, { run, client_state: names = [] }, connection, workerId) {
        this.#claim = claim;
        this.#run = run;
        this.#connection = connection;
        this.#path = `/workers/${segment(workerId)}`;
        this.#nextSeq = claim.last_seq + 1;
        this.lease = { message_id: claim.message_id, lease: claim.lease };
        const state = claim.metadata?.agui?.state ?? {};
        const given = Object.entries(state).filter(([name]) => names.includes(name));
        this.#memory = { ...structuredClone(claim.memory ?? {}), ...Object.fromEntries(given) };
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
        let ending = await this.#execute(timeout);
        clearTimeout(timer);
        this.#closed = true;
        await this.#sending;
        if (this.#reason === "lost")
            return;
        if (this.#reason instanceof Error)
            ending = { outcome: "failed", error: describe(this.#reason) }; // events are missing in the log
        const usage = this.#counts.size > 0 ? { usage: total([...this.#counts.values()]) } : {};
        const body = { ...ending, ...usage, ...this.#left(ending.outcome) };
        try {
            await this.#finish(body);
        }
        catch (error) {
            if (error instanceof LeaseLost || error instanceof Unavailable)
                throw error;
            // The server does not accept the result or an event, or the memory is not JSON.
            await this.#finish({ outcome: "failed", error: error instanceof Rejected ? error.message : describe(error), events: [] });
        }
    }
    /** The events that are not in the log yet. A step counts only together with what it sends. */
    #left(outcome) {
        const first = this.#unsent.findIndex(({ sends }) => sends !== undefined);
        if (outcome !== "completed" && outcome !== "input" && outcome !== "children") {
            return { events: this.#unsent.slice(0, first < 0 ? undefined : first).map(({ event }) => event) };
        }
        const every = [...this.#unsent.flatMap(({ sends }) => sends ?? []), this.#toSend];
        const [sends, records] = [every.flatMap((one) => one.sends), every.flatMap((one) => one.records)];
        return { events: this.#unsent.map(({ event }) => event), ...filled({ sends, records }) };
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
            const ending = { outcome: "completed", result: result === undefined ? null : result };
            return { ...plain(ending, "The agent's result"), ...this.#changedMemory() };
        }
        catch (thrown) {
            const error = this.#reason === undefined ? meaning(thrown, describe(thrown)) : thrown;
            if (this.#reason === "released")
                return { outcome: "released" };
            if (this.#reason instanceof Asked)
                return { outcome: "input", question: { ...this.#reason } };
            if (this.#reason instanceof Waiting)
                return { outcome: "children", children: this.#reason.children };
            if (this.#reason === "timeout")
                return { outcome: "retry", error: `The attempt took longer than ${timeout} seconds.` };
            if (this.#reason !== undefined)
                return { outcome: "failed", error: describe(this.#reason) };
            if (error instanceof Rejected)
                return { outcome: "failed", error: error.message || "Rejected." };
            if (error instanceof RetryAfter) {
                const outcome = error instanceof Overloaded ? "overloaded" : "retry";
                return { outcome, error: error.message || error.name, retry_after: error.seconds };
            }
            return { outcome: "retry", error: describe(error) };
        }
    }
    #changedMemory() {
        const { thread_id: thread, aside, memory } = this.#claim;
        return thread === null || aside || same(this.#memory, memory ?? {}) ? {} : { memory: this.#memory };
    }
    #context() {
        const claim = this.#claim;
        const steps = new Map(Object.entries(claim.steps));
        const inputs = new Map(Object.entries(claim.inputs));
        const questions = claim.questions;
        const begun = new Set();
        const begin = (kind, given, taken = () => false) => {
            let name = given === undefined ? undefined : storable(given); // as the server stores it, and later attempts find it
            for (let number = 1; name === undefined; number++) {
                const next = `${kind} ${number}`;
                if (!begun.has(`${kind}/${next}`) && !taken(next))
                    name = next;
            }
            if (begun.has(`${kind}/${name}`))
                throw new Error(`This attempt has already begun the ${kind} ${name}: give each ${kind} its own name.`);
            begun.add(`${kind}/${name}`);
            return name;
        };
        // Without a name, the server finds what an earlier attempt sent by its content: sends side by side may come in another
        // order. One asks after the other, because the answer takes the number.
        let numbering = Promise.resolve();
        const place = (kind, given, ask) => {
            if (given !== undefined || claim.attempt === 1)
                return ask(begin(kind, given)); // nothing was sent before the first attempt
            const placing = numbering.then(async () => {
                const numbers = [...begun].filter((name) => name.startsWith(`${kind}/${kind} `)).map((name) => name.slice(2 * kind.length + 2));
                const placed = await ask(kind, numbers.filter((number) => /^[1-9][0-9]{0,7}$/.test(number)).map(Number));
                begin(kind, placed.name);
                return placed;
            });
            numbering = placing.catch(() => { });
            return placing;
        };
        const exactlyOnce = claim.metadata?.record?.delivery === "exactly_once";
        return {
            messageId: claim.message_id,
            threadId: claim.thread_id,
            attempt: claim.attempt,
            metadata: claim.metadata,
            traceparent: claim.traceparent ?? null,
            memory: this.#memory,
            signal: this.#abort.signal,
            emit: async (text) => {
                this.#requireRunning();
                for (let start = 0, end = 0; start < text.length; start = end) {
                    end = start + CHUNK_CHARS;
                    if (isFirstHalf(text.charCodeAt(end - 1)) && end < text.length)
                        end -= 1; // keep a pair together
                    const chunk = text.slice(start, end);
                    await this.#put({ type: "chunk", data: { chunk, index: this.#chunks++ } });
                }
            },
            event: (type, data) => this.#put({ type, data }),
            step: async (name, run) => {
                this.#requireRunning();
                const own = begin("step", name);
                if (steps.has(own))
                    return steps.get(own);
                const result = json(await run({ usage: (counts) => this.#count(own, counts) }), "The result of the step");
                const used = this.#counts.get(own);
                const data = { name: own, result, ...(used ? { usage: used } : {}) };
                const event = { type: "step", data };
                await this.#put(event, true, exactlyOnce ? undefined : this.#takeUnsent());
                return result;
            },
            send: async (message, { name, ...options } = {}) => {
                this.#requireRunning();
                const send = { message, ...options };
                const placed = await place("send", name, (own, used_numbers) => this.#ask("/send", { send: { ...send, name: own }, used_numbers }));
                if (placed.is_new) {
                    this.#toSend.sends.push({ ...send, name: placed.name });
                    this.#placed.set(placed.message_id, options.aside ? null : (options.thread_id ?? null));
                }
                return placed.message_id;
            },
            gather: (messages, options = {}) => this.#gather(messages, options.settled ?? false),
            publish: async (topic, value, { name, ...options } = {}) => {
                this.#requireRunning();
                const record = { topic, value, ...options };
                const placed = await place("publish", name, (own, used_numbers) => this.#ask("/publish", { record: { ...record, name: own }, used_numbers }));
                if (placed.is_new)
                    this.#toSend.records.push({ ...record, name: placed.name });
                return placed.record_id;
            },
            input: async (question, { name } = {}) => {
                this.#requireRunning();
                const asked = plain(question ?? null, "The question");
                const differs = (one) => inputs.has(one) && one in questions && !same(questions[one], asked);
                const own = begin("input", name, differs);
                if (differs(own))
                    throw new Rejected(`This attempt asks another question as ${own} than an earlier attempt did.`);
                if (inputs.has(own))
                    return inputs.get(own);
                this.stop(new Asked(own, asked));
                return new Promise(() => { }); // the attempt ends
            },
            history: async (options = {}) => (await this.#ask("/history", options)).exchanges,
            usage: (counts) => this.#count("", counts),
        };
    }
    #count(step, counts) {
        this.#counts.set(step, { ...this.#counts.get(step), ...counts });
    }
    /** Throws if the attempt is over or must end: an agent that ignores that begins nothing more. */
    #requireRunning() {
        this.#abort.signal.throwIfAborted();
        if (this.#closed)
            throw new Error("The attempt is over.");
    }
    async #gather(messages, settled) {
        this.#requireRunning();
        const children = messages.filter((message) => !this.#placed.has(message));
        const asked = children.length > 0 ? await this.#ask("/children", { children }) : { messages: [] };
        const found = new Map(asked.messages.map((child) => [child.message_id, child]));
        for (const [message, child] of found) {
            const own = child.state === "deleted" || child.parent === this.#claim.message_id;
            if (!own)
                throw new Rejected(`gather takes what send returned, not ${message}`);
        }
        const threads = new Map([...[...found].map(([id, child]) => [id, child.thread_id]), ...this.#placed]);
        const turn = this.#claim.aside ? null : this.#claim.thread_id;
        const own = turn === null ? undefined : messages.find((message) => threads.get(message) === turn);
        if (own !== undefined)
            throw new Rejected(`the message ${own} waits for this one's turn in the thread ${turn}: send it to another thread`);
        const open = messages.filter((message) => ["queued", "processing"].includes(found.get(message)?.state ?? "queued"));
        if (open.length > 0) {
            this.stop(new Waiting(open));
            return new Promise(() => { }); // the attempt ends
        }
        const results = messages.map((message) => resultOf(found.get(message)));
        const failed = results.find((result) => result instanceof ChildFailed);
        if (failed !== undefined && !settled)
            throw failed;
        return results;
    }
    /** A call under the lease that the agent waits for. Throws Rejected where it is refused. */
    async #ask(call, fields) {
        this.#requireRunning();
        try {
            return await this.#write(call, fields);
        }
        catch (error) {
            if (error instanceof LeaseLost)
                this.stop("lost");
            if (error instanceof ApiError)
                throw new Rejected(error.detail);
            throw error;
        }
    }
    #takeUnsent() {
        const unsent = this.#toSend;
        if (unsent.sends.length + unsent.records.length === 0)
            return undefined;
        this.#toSend = { sends: [], records: [] };
        this.#placed.clear();
        return unsent;
    }
    /** Buffer an event; `saved`: resolve when it is in the log. */
    async #put(event, saved = false, sends) {
        this.#requireRunning();
        event = plain(event, event.type === "step" ? "The result of the step" : "The event");
        this.#unsent.push({ event, ...(sends ? { sends } : {}) });
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
            while (this.#unsent.length > 0 && !(this.#closed && this.#fitInOneCall())) {
                const next = this.#nextEvents();
                const events = next.map(({ event }) => event);
                const body = { first_seq: this.#nextSeq, events, ...filled(next[0]?.sends) };
                const answer = await this.#write("/append", body);
                this.#unsent.splice(0, events.length);
                this.#nextSeq += events.length;
                this.#chars = this.#unsent.reduce((sum, { event }) => sum + JSON.stringify(event).length, 0);
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
    /** Those that are left go with the end of the attempt. */
    #fitInOneCall() {
        return this.#unsent.length <= CALL_EVENTS && this.#chars <= CALL_CHARS;
    }
    #nextEvents() {
        const next = [];
        let chars = 0;
        for (const buffered of this.#unsent) {
            const size = JSON.stringify(buffered.event).length;
            const full = next.length === CALL_EVENTS || chars + size > CALL_CHARS || buffered.sends !== undefined;
            if (next.length > 0 && full)
                break;
            next.push(buffered);
            chars += size;
            if (buffered.sends)
                break;
        }
        return next;
    }
    /** A write, repeated however long the server is away: the lease may still be ours when it returns. */
    async #write(call, fields) {
        for (;;) {
            try {
                const { traceparent } = this.#claim;
                const body = { ...this.lease, ...(call === "/append" ? fields : plain(fields, "What the agent sends, asks or keeps")) };
                return await this.#connection.call("POST", this.#path + call, { body, traceparent });
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
    if (error instanceof ApiError)
        return error.detail;
    try {
        return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    }
    catch {
        return "The agent threw a value that has no text.";
    }
}
/** The value as PostgreSQL takes it. Throws Rejected for one that is not JSON: another attempt would pay for the same. */
function plain(value, what) {
    try {
        return storable(value);
    }
    catch (error) {
        throw new Rejected(`${what} is not JSON: ${describe(error)}`);
    }
}
/** The value as a later attempt reads it: without what JSON does not have. Throws Rejected. */
function json(value, what) {
    const kept = plain(value, what);
    return (kept === undefined ? null : JSON.parse(JSON.stringify(kept) ?? "null"));
}
/** Numbers are added, of other values the last one holds. */
function total(usages) {
    const sums = {};
    for (const [name, value] of usages.flatMap((usage) => Object.entries(usage))) {
        const sum = sums[name];
        sums[name] = typeof sum === "number" && typeof value === "number" ? sum + value : value;
    }
    return sums;
}
function isFirstHalf(code) {
    return code >= 0xd800 && code < 0xdc00;
}
function resultOf(child) {
    return child.state === "completed" ? child.result : new ChildFailed(child.message_id, child.state, child.error ?? null);
}
/** The fields that are not empty. */
function filled(unsent) {
    const fields = Object.entries(unsent ?? {}).filter(([, value]) => value.length > 0);
    return Object.fromEntries(fields);
}
