/** Whether two values are the same JSON. */
export declare function same(one: unknown, other: unknown): boolean;
/** The same JSON with U+FFFD for U+0000 and for halves of surrogate pairs, which PostgreSQL does not take. */
export declare function storable<T>(value: T): T;
