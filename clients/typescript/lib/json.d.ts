/** Whether two values are the same JSON. */
export declare function same(one: unknown, other: unknown): boolean;
