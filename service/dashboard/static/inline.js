// Markdown inside a line: code, strong, emphasis, links. Every search goes on where the last one ended, so that the work
// is linear in the text, whatever an agent writes.

const WORD = /\w/;
const SPACE = /\s/;

/** An element with these children; a call takes fewer arguments than a text can have parts. */
export function node(tag, children) {
  const element = document.createElement(tag);
  for (const child of children) element.append(child);
  return element;
}

/** Where a text is found next, from positions that only grow: it is never searched twice in the same stretch. */
class Finder {
  constructor(text) {
    this.text = text;
    this.found = new Map(); // by the wanted text: where it was found last, Infinity where it does not come again
  }

  next(wanted, from) {
    let place = this.found.get(wanted) ?? -1;
    if (place < from) {
      place = this.text.indexOf(wanted, from);
      if (place < 0) place = Infinity;
      this.found.set(wanted, place);
    }
    return place;
  }

  nextSpace(from) {
    let place = this.found.get(SPACE) ?? -1;
    if (place < from) {
      for (place = from; place < this.text.length && !SPACE.test(this.text[place]);) place += 1;
      this.found.set(SPACE, place);
    }
    return place;
  }
}

/** By the place of each run of backticks: the place of the next run of the same length. */
function pairBackticks(text) {
  const next = new Map();
  const last = new Map(); // by length
  const runs = [...text.matchAll(/`+/g)];
  for (const { index, 0: run } of runs.reverse()) {
    if (last.has(run.length)) next.set(index, last.get(run.length));
    last.set(run.length, index);
  }
  return next;
}

/** The text as nodes and strings. */
export function inline(text) {
  const parts = [];
  const finder = new Finder(text);
  const closers = pairBackticks(text);
  let plain = 0; // where the text begins that is not in `parts` yet
  let at = 0;
  const take = (element, end) => {
    if (at > plain) parts.push(text.slice(plain, at));
    parts.push(element);
    plain = at = end;
  };
  while (at < text.length) {
    const mark = text[at];
    if (mark === "`") {
      let end = at;
      while (text[end] === "`") end += 1;
      const closer = closers.get(at);
      if (closer === undefined) at = end;
      else take(node("code", [text.slice(end, closer)]), closer + end - at);
    } else if (mark === "*" || mark === "_") {
      const found = emphasis(text, at, finder);
      if (found) take(node(found.tag, inline(text.slice(found.start, found.end))), found.next);
      else at += 1;
    } else if (mark === "[") {
      const found = link(text, at, finder);
      if (found) take(found.element, found.next);
      else at += 1;
    } else {
      at += 1;
    }
  }
  if (plain < text.length || !parts.length) parts.push(text.slice(plain));
  return parts;
}

function emphasis(text, at, finder) {
  const mark = text[at];
  if (text.startsWith("**", at) && at + 2 < text.length && !SPACE.test(text[at + 2])) {
    const end = finder.next("**", at + 3);
    if (end !== Infinity) return { tag: "strong", start: at + 2, end, next: end + 2 };
  }
  const before = text[at - 1] ?? "";
  const after = text[at + 1] ?? " ";
  if (WORD.test(before) || before === mark || after === mark || SPACE.test(after)) return null;
  const end = finder.next(mark, at + 1);
  if (end === Infinity || finder.next("\n", at) < end) return null;
  const following = text[end + 1] ?? "";
  if (WORD.test(following) || following === mark) return null;
  return { tag: "em", start: at + 1, end, next: end + 1 };
}

function link(text, at, finder) {
  const bracket = finder.next("]", at + 2);
  if (bracket === Infinity || finder.next("\n", at) < bracket) return null;
  const address = bracket + 2;
  if (text[bracket + 1] !== "(" || !/^https?:\/\//.test(text.slice(address, address + 8))) return null;
  const end = finder.next(")", address);
  if (end === Infinity || finder.nextSpace(address) < end) return null;
  const element = node("a", [text.slice(at + 1, bracket)]);
  element.href = text.slice(address, end);
  element.target = "_blank";
  element.rel = "noopener noreferrer";
  return { element, next: end + 1 };
}
