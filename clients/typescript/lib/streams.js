import { backoff, errorOf, sleep } from "./connection.js";
import { ApiError, Unavailable } from "./errors.js";
const FINAL = new Set(["done", "error", "cancelled"]);
const SILENCE = 60_000; // The server writes a comment every 15 seconds, so the connection is dead after this time.
const MAX_EVENT_CHARS = 64_000_000;
/** The events of a log. It resumes by itself, on whichever server answers, until the log is over. */
export async function* follow(connection, path, options = {}) {
    let lastId = options.after === undefined ? "" : String(options.after);
    let failures = 0;
    let advice = 0;
    for (;;) {
        let lastType = "";
        const abort = new AbortController();
        const end = () => abort.abort(options.signal?.reason);
        options.signal?.addEventListener("abort", end, { once: true });
        try {
            options.signal?.throwIfAborted();
            const headers = lastId ? { "last-event-id": lastId } : {};
            const answer = await connection.request("GET", path, { headers, signal: abort.signal });
            if (answer.status === 204)
                return;
            if (!answer.ok || !answer.body) {
                const error = await errorOf(answer);
                if (error instanceof ApiError && error.status !== 429)
                    throw error;
                failures++;
            }
            else {
                for await (const sent of readEvents(answer.body, abort)) {
                    if (sent.retry !== undefined)
                        advice = sent.retry;
                    lastType = sent.data ? sent.type : "";
                    if (!sent.data)
                        continue; // The server closes the stream, and its log goes on.
                    failures = 0;
                    const data = JSON.parse(sent.data);
                    if (sent.type === "unauthorized")
                        throw new ApiError(401, String(data.message));
                    const stored = sent.id !== "" && sent.id !== lastId;
                    lastId = sent.id || lastId;
                    yield stored ? { id: sent.id, type: sent.type, data } : { type: sent.type, data };
                }
                if (FINAL.has(lastType))
                    return;
            }
        }
        catch (error) {
            options.signal?.throwIfAborted();
            if (error instanceof ApiError)
                throw error;
            failures++;
        }
        finally {
            options.signal?.removeEventListener("abort", end);
            abort.abort();
        }
        await sleep(Math.max(advice, failures ? backoff(failures) : 0), options.signal);
    }
}
/** Server-sent events of a body. A silent connection is aborted. */
async function* readEvents(body, abort) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let event = { id: "", type: "message", data: "", retry: undefined };
    let timer;
    const watch = () => {
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(new Unavailable("The stream is silent.")), SILENCE);
        timer.unref?.();
    };
    try {
        for (;;) {
            watch();
            const { value, done } = await reader.read();
            if (done)
                return;
            rest += decoder.decode(value, { stream: true });
            if (rest.length > MAX_EVENT_CHARS)
                throw new Unavailable("An event is too long.");
            const lines = rest.split("\n");
            rest = lines.pop() ?? "";
            for (const line of lines) {
                if (line === "" || line === "\r") {
                    if (event.data || event.retry !== undefined)
                        yield event;
                    event = { id: "", type: "message", data: "", retry: undefined };
                }
                else {
                    takeLine(event, line.endsWith("\r") ? line.slice(0, -1) : line);
                }
            }
        }
    }
    finally {
        clearTimeout(timer);
        reader.releaseLock();
    }
}
function takeLine(event, line) {
    const colon = line.indexOf(":");
    if (colon === 0)
        return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data")
        event.data = event.data ? `${event.data}\n${value}` : value;
    else if (name === "event")
        event.type = value;
    else if (name === "id")
        event.id = value;
    else if (name === "retry" && /^\d{1,9}$/.test(value))
        event.retry = Number(value);
}
