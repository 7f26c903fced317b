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
