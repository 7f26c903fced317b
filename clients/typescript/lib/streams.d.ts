import { type Connection } from "./connection.js";
/** An event of a log. `id` is the cursor after which a stream goes on; undefined: it is not stored (`waiting`, `gap`). */
export interface StreamEvent {
    id?: string;
    type: string;
    data: any;
}
export interface StreamOptions {
    /** The id of the last event that was seen. Default: none, so all events follow. */
    after?: string | number;
    signal?: AbortSignal;
}
/** The events of a log. It resumes by itself, on whichever server answers, until the log is over. */
export declare function follow(connection: Connection, path: string, options?: StreamOptions): AsyncGenerator<StreamEvent>;
