/**
 * What an agent's error means, if it is that of a client (the SDK of a model or of AWS, fetch) or was thrown because of one:
 * Overloaded where the service is overloaded or cannot be reached. Else the error itself.
 */
export declare function meaning(error: unknown, text: string): unknown;
