/** Whether two values are the same JSON. */
export function same(one: unknown, other: unknown): boolean {
  return sorted(one) === sorted(other ?? null);
}

function sorted(value: unknown): string {
  return JSON.stringify(value, (_, part) =>
    part !== null && typeof part === "object" && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

const ESCAPES = /\\(?:u(?:d[89a-f][0-9a-f]{2}|0000)|[^])/g; // of JSON.stringify, which escapes only halves of pairs so
const UNSTORABLE = /\\u(?:d[89a-f][0-9a-f]{2}|0000)/;

/** The same JSON with U+FFFD for U+0000 and for halves of surrogate pairs, which PostgreSQL does not take. */
export function storable<T>(value: T): T {
  const text = JSON.stringify(value);
  if (text === undefined || !UNSTORABLE.test(text)) return value;
  return JSON.parse(text.replace(ESCAPES, (escape) => (escape.length === 6 ? "\ufffd" : escape))) as T;
}
