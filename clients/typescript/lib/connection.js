import { ApiError, Unavailable } from "./errors.js";
const FIRST_DELAY = 200;
const LONGEST_DELAY = 10_000;
/** Milliseconds before repeat `attempt` (from 1): exponential, half of it random. */
export function backoff(attempt) {
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** Math.min(attempt - 1, 10));
    return longest / 2 + (Math.random() * longest) / 2;
}
/** Resolves after so many milliseconds; rejects when the signal aborts. */
export function sleep(milliseconds, signal) {
    return new Promise((resolve, reject) => {
        if (signal?.aborted)
            return reject(signal.reason);
        const timer = setTimeout(done, milliseconds);
        function done() {
            signal?.removeEventListener("abort", aborted);
            resolve();
        }
        function aborted() {
            clearTimeout(timer);
            reject(signal?.reason);
        }
        signal?.addEventListener("abort", aborted, { once: true });
    });
}
/** One server. It repeats calls whose answer was lost. */
export class Connection {
    url;
    key;
    #repeatMilliseconds;
    #fetch;
    constructor(options = {}) {
        const page = globalThis.location?.origin;
        this.url = (options.url ?? page ?? "http://localhost:8000").replace(/\/$/, "");
        this.key = options.key;
        this.#repeatMilliseconds = (options.repeatSeconds ?? 60) * 1000;
        this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    }
    /** One request, without a repeat. */
    request(method, path, init = {}) {
        const headers = { ...init.headers, ...(this.key ? { authorization: `Bearer ${this.key}` } : {}) };
        return this.#fetch(this.url + path, { ...init, method, headers });
    }
    /** A call until it is answered; the JSON of the answer. */
    async call(method, path, options = {}) {
        const answer = await this.send(method, path, options);
        return (answer.status === 204 ? undefined : await answer.json());
    }
    /** A call until it is answered. */
    async send(method, path, options = {}) {
        const query = new URLSearchParams();
        for (const [name, value] of Object.entries(options.query ?? {}))
            if (value !== undefined)
                query.set(name, String(value));
        const text = query.toString();
        const address = path + (text && `?${text}`);
        const headers = {};
        if (options.body !== undefined)
            headers["content-type"] = "application/json";
        if (options.idempotencyKey)
            headers["idempotency-key"] = options.idempotencyKey;
        if (options.traceparent)
            headers["traceparent"] = options.traceparent;
        const init = { headers };
        if (options.body !== undefined)
            init.body = JSON.stringify(options.body);
        if (options.signal)
            init.signal = options.signal;
        const until = Date.now() + this.#repeatMilliseconds;
        for (let attempt = 1;; attempt++) {
            const failure = await this.#try(method, address, init, options.repeatable ?? true);
            if (failure instanceof Response)
                return failure;
            const delay = Math.max(backoff(attempt), failure.delay);
            if (!failure.repeatable || Date.now() + delay > until)
                throw failure.error;
            await sleep(delay, options.signal);
        }
    }
    async #try(method, address, init, repeatable) {
        let answer;
        try {
            answer = await this.request(method, address, init);
        }
        catch (error) {
            if (init.signal?.aborted)
                throw error;
            return { error: new Unavailable(`The server cannot be reached: ${error}`), repeatable, delay: 0 };
        }
        if (answer.ok)
            return answer;
        const error = await errorOf(answer);
        if (error instanceof Unavailable)
            return { error, repeatable, delay: 0 };
        const later = error.status === 429 || (error.status === 409 && error.retryAfter !== undefined);
        return { error, repeatable: later, delay: (error.retryAfter ?? 0) * 1000 };
    }
}
/** The error for an answer without success. */
export async function errorOf(answer) {
    let detail = `The server answered ${answer.status}.`;
    let title = "";
    try {
        const problem = (await answer.json());
        if (typeof problem.detail === "string")
            detail = problem.detail;
        if (typeof problem.title === "string")
            title = problem.title;
    }
    catch {
        // A proxy may answer with a page.
    }
    if ([408, 502, 503, 504].includes(answer.status))
        return new Unavailable(detail);
    const advice = Number.parseInt(answer.headers.get("retry-after") ?? "", 10);
    return new ApiError(answer.status, detail, Number.isNaN(advice) ? undefined : advice, title);
}
/** An id or name as one segment of a path. */
export function segment(value) {
    return encodeURIComponent(value);
}
/** A random id, also where a page is not served over HTTPS, and in Node 18, which has no `crypto`. */
export function randomId() {
    const bytes = new Uint8Array(16);
    if (typeof crypto === "undefined")
        bytes.forEach((_, index) => (bytes[index] = Math.random() * 256));
    else
        crypto.getRandomValues(bytes);
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
/** A UUIDv7 (RFC 9562): the id of a record. */
export function uuid7() {
    const time = Date.now().toString(16).padStart(12, "0");
    const random = randomId();
    const variant = "89ab"[Number.parseInt(random[16] ?? "0", 16) & 3];
    return `${time.slice(0, 8)}-${time.slice(8)}-7${random.slice(13, 16)}-${variant}${random.slice(17, 20)}-${random.slice(20)}`;
}
