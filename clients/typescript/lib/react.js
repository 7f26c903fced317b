const EMPTY = { text: "", state: "queued", events: [] };
const OWN = new Set(["queued", "waiting", "started", "chunk", "retry", "parked", "input", "step", "gap", "unauthorized"]);
/** The view after an event. */
export function reduce(view, event) {
    switch (event.type) {
        case "queued":
            return EMPTY;
        case "started":
            return { ...view, text: "", state: "processing" };
        case "chunk":
            return { ...view, text: view.text + event.data.chunk };
        case "retry":
        case "parked":
            return { ...view, state: "queued" };
        case "done":
            return { ...view, state: "completed", result: event.data.result };
        case "error":
            return { ...view, state: "failed", error: event.data.error };
        case "cancelled":
            return { ...view, state: "cancelled" };
        default:
            return OWN.has(event.type) ? view : { ...view, events: [...view.events, event] };
    }
}
/**
 * The hooks, for the React of your application:
 *
 *     import * as React from "react";
 *     export const { useMessage } = createHooks(React);
 */
export function createHooks(react) {
    /** The message, live. It survives reloads and cut connections; undefined as its id: nothing is read. */
    function useMessage(client, messageId) {
        const [view, setView] = react.useState(EMPTY);
        react.useEffect(() => {
            setView(EMPTY);
            if (messageId === undefined)
                return undefined;
            const abort = new AbortController();
            (async () => {
                for await (const event of client.stream(messageId, { signal: abort.signal })) {
                    setView((before) => reduce(before, event));
                }
            })().catch((error) => {
                if (!abort.signal.aborted)
                    setView((before) => ({ ...before, state: "failed", error: String(error) }));
            });
            return () => abort.abort();
        }, [client, messageId]);
        return view;
    }
    return { useMessage };
}
