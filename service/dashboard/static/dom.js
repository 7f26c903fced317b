// Small helpers: elements, and JSON values as text.

const MAX_LINE_CHARS = 300;

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

export const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

/** The data of an event on one line: `name: value, ...` */
export function asLine(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return asText(data ?? "");
  const fields = Object.entries(data).filter(([, value]) => value !== undefined);
  const line = fields.map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  return shorten(line, MAX_LINE_CHARS);
}

export const shorten = (text, chars) => (text.length > chars ? `${text.slice(0, chars)} ...` : text);
