// Elements, and values as people read them.

/** An element; `more`: properties, `on...` listeners, or attributes with a dash; then children: elements or text. */
export function el(tag, more = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  made.className = classes.join(" ");
  for (const [key, value] of Object.entries(more)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.includes("-") || ["role", "for", "scope", "colspan"].includes(key)) made.setAttribute(key, value);
    else if (key === "data") Object.assign(made.dataset, value);
    else made[key] = value;
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const NAMESPACE = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

export const shorten = (text, chars) => (text.length > chars ? `${text.slice(0, chars)}…` : text);

/** The digits in which ids differ: messages that one message sends share its time, and the last digits come from the content. */
export const shortId = (id) => `…${id.slice(19, 28)}…`;

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 100_000) return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
  if (Math.abs(value) < 0.1) return new Intl.NumberFormat("en", { maximumSignificantDigits: 2 }).format(value); // such as costs
  return new Intl.NumberFormat("en", { maximumFractionDigits: value >= 100 ? 0 : 2 }).format(value);
}

/** `1 message`, `2 messages`; `many`: the plural where it does not end in s. */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A length of time. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 600) return `${Math.round(seconds / 6) / 10} min`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export const secondsBetween = (from, to) => Math.max(0, (new Date(to) - new Date(from)) / 1000);

/** A moment: how long ago, with the exact time behind it. */
export function moment(text) {
  if (!text) return el("span", {}, "–");
  const seconds = (Date.now() - new Date(text)) / 1000;
  const said = seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
  return el("time", { dateTime: text, title: new Date(text).toLocaleString() }, said);
}

export const badge = (state, hold) => el("span.badge", { data: { state } }, hold ? `${state}: ${hold}` : state);

/**
 * A table. `columns`: [heading, cell of a row, {number, wide}]; on a phone each row becomes a block with its headings.
 */
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return el("p.empty", {}, empty);
  const head = el("tr", {}, columns.map(([heading, , more = {}]) => el("th", { scope: "col", className: more.number ? "number" : "" }, heading)));
  const body = rows.map((row) =>
    el("tr", {}, columns.map(([heading, cell, more = {}]) => {
      const value = cell(row);
      const shown = value instanceof Node || Array.isArray(value) ? value : String(value ?? "–");
      const classes = [more.number && "number", more.wide && "wide", shown === "" && "none"].filter(Boolean).join(" ");
      return el("td", { className: classes, data: { heading } }, el("div", {}, shown));
    })));
  return el("div.scroll", { tabIndex: 0, role: "region", "aria-label": caption }, el("table", {}, el("caption.visually-hidden", {}, caption), el("thead", {}, head), el("tbody", {}, body)));
}

/** Terms and their values. */
export const facts = (pairs) =>
  el("dl.facts", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));

const postponed = new Map(); // by place: what it shows once its buttons are done

/**
 * Show these in a place, unless it shows the same. The element with the focus keeps it, and fields keep what was typed.
 * A place in which a button is busy waits for it: a fresh button could be pressed a second time.
 */
export function put(place, ...children) {
  postponed.delete(place);
  if (place.querySelector("button[aria-disabled]")) {
    postponed.set(place, children);
    return;
  }
  const fresh = el("div", {}, ...children);
  if (place.innerHTML === fresh.innerHTML) return;
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const typed = [...place.querySelectorAll("input")].filter((field) => field.value !== field.defaultValue);
  for (const field of typed) {
    const same = counterpart(field, fresh);
    if (same) same.value = field.value;
  }
  const next = focused && counterpart(focused, fresh);
  place.replaceChildren(...fresh.childNodes);
  next?.focus({ preventScroll: true });
}

/** The element of new content that stands where this one stands: in the same row, with the same text if there is one. */
function counterpart(element, content) {
  const row = (one) => one.closest("tr, details, section, li")?.querySelector("td, summary, h2, a")?.textContent ?? "";
  const cell = (one) => one.closest("td")?.dataset.heading ?? one.getAttribute("aria-label") ?? "";
  const there = [...content.querySelectorAll(element.tagName)].filter((one) => row(one) === row(element) && cell(one) === cell(element));
  return there.find((one) => one.textContent === element.textContent) ?? there[0] ?? null;
}

export const link = (address, text) => el("a", { href: `#${address}` }, text);

/** The address of a view with parameters, of which empty ones are left out. */
export function address(view, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `${view}?${new URLSearchParams(given)}` : view;
}

/** A button to the next page of a list; nothing where `parameters[name]`, its cursor, is null. */
export const more = (view, parameters, text, name = "cursor") => (parameters[name] ? el("p", {}, el("a.button", { href: `#${address(view, parameters)}` }, text)) : "");

const announcer = document.querySelector("#announce");

/** Say it to those who do not see the page, too. */
export function announce(text) {
  announcer.textContent = text;
}

/** Ask before something that cannot be undone. */
export function ask(title, text, yes) {
  const dialog = document.querySelector("#ask");
  document.querySelector("#askTitle").textContent = title;
  document.querySelector("#askText").textContent = text;
  document.querySelector("#askYes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/**
 * A button that does something, tells what came of it in `out`, and cannot be pressed twice meanwhile. (It is not
 * `disabled`, which would take the focus from it.)
 */
export function action(text, act, { danger = false, out = null } = {}) {
  const button = el("button", { type: "button", className: danger ? "danger" : "" }, text);
  button.addEventListener("click", async () => {
    if (button.ariaDisabled) return;
    button.ariaDisabled = "true";
    try {
      const said = await act();
      if (said) tell(out, said);
    } catch (error) {
      tell(out, error.message, true);
    } finally {
      button.ariaDisabled = null;
      for (const [place, children] of [...postponed]) if (place.contains(button)) put(place, ...children);
    }
  });
  return button;
}

export function tell(out, text, bad = false) {
  if (!out) {
    announce(text);
    return;
  }
  out.textContent = text; // it has the role status, so it is read out
  out.classList.toggle("bad", bad);
}

/** Copy text, and say so on the button. */
export const copier = (label, text) => {
  const button = el("button.small", { type: "button" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copying is not allowed here";
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
};
