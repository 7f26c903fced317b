// Elements, and values as text.

export const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};

export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

/** An event's data on one line: `name: value, ...` */
export function brief(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return shown(data ?? "");
  const parts = Object.entries(data).filter(([, value]) => value !== undefined);
  const text = parts.map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  return text.length > 300 ? `${text.slice(0, 300)} ...` : text;
}
