import type { Treadle } from "./client.js";
import type { StreamEvent } from "./streams.js";
/** The part of React that the hooks use. */
interface ReactLike {
    useState<S>(initial: S): [S, (next: S | ((before: S) => S)) => void];
    useEffect(effect: () => undefined | (() => void), dependencies?: readonly unknown[]): void;
}
/** What a component sees of a message. */
export interface MessageView {
    /** What the running attempt, or the last one, has written. */
    text: string;
    state: "queued" | "processing" | "completed" | "failed" | "cancelled";
    result?: unknown;
    error?: string;
    /** Of other types than the service's own, such as `progress`. */
    events: StreamEvent[];
}
/** The view after an event. */
export declare function reduce(view: MessageView, event: StreamEvent): MessageView;
/**
 * The hooks, for the React of your application:
 *
 *     import * as React from "react";
 *     export const { useMessage } = createHooks(React);
 */
export declare function createHooks(react: ReactLike): {
    useMessage: (client: Treadle, messageId: string | undefined) => MessageView;
};
export {};
