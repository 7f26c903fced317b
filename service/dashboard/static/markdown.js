// Markdown as elements of the page: the part of the language that agents write. Text never becomes markup: this module
// creates elements and puts strings into them as text. The work is linear in the text, whatever an agent writes.

import { inline, node } from "./inline.js";

const MAX_NESTING = 16; // of quotes and lists in each other; deeper text is shown as a paragraph

const FENCE = /^\s*(```|~~~)/;
const HEADING = /^(#{1,6})\s+/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^\s*>\s?/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const TABLE = /^\s*\|.*\|\s*$/;
const DIVIDER = /^\s*\|(\s*:?-+:?\s*\|)+\s*$/;

/** Show the text in the element. Unchanged blocks stay, so that a selection in them stays, too. */
export function render(element, text) {
  renderNested(element, text, 0);
}

function renderNested(element, text, depth) {
  const wanted = splitBlocks(text);
  const old = element.blocks ?? [];
  let same = 0;
  while (same < wanted.length && same < old.length && wanted[same] === old[same]) same += 1;
  const last = wanted[same];
  if (same === old.length - 1 && same === wanted.length - 1 && extendsParagraph(element.lastChild, old[same], last)) {
    element.lastChild.firstChild.appendData(last.slice(old[same].length));
  } else {
    while (element.childNodes.length > same) element.lastChild.remove();
    for (const source of wanted.slice(same)) element.append(blockElement(source, depth));
  }
  element.blocks = wanted;
}

/** Whether a block is a paragraph of plain text to which text was appended. */
function extendsParagraph(drawn, before, now) {
  const plain = lineKind(now) === "text" && /^[^`*_[\]\n]*$/.test(now);
  return plain && now.startsWith(before) && drawn.nodeName === "P" && drawn.childNodes.length === 1;
}

function lineKind(line) {
  if (!line.trim()) return "empty";
  if (FENCE.test(line)) return "fence";
  if (HEADING.test(line)) return "heading";
  if (RULE.test(line)) return "rule";
  if (ITEM.test(line)) return /\d/.test(line.match(ITEM)[2]) ? "numbers" : "bullets";
  if (QUOTE.test(line)) return "quote";
  return TABLE.test(line) ? "table" : "text";
}

/** The text in blocks, each of which is rendered on its own. */
function splitBlocks(text) {
  const found = [];
  let lines = [];
  let open = null; // the kind of the block that `lines` belong to
  const close = () => {
    const source = lines.join("\n").trimEnd();
    if (source) found.push(source);
    lines = [];
    open = null;
  };
  for (const line of text.split("\n")) {
    const now = lineKind(line);
    const list = open === "bullets" || open === "numbers";
    const continues = list
      ? now === open || now === "empty" || /^\s{2}/.test(line) || (now === "text" && lines.at(-1).trim())
      : open === "fence" || (now === open && now !== "empty");
    if (!continues) close();
    if (now === "empty" && open === null) continue;
    open ??= now;
    lines.push(line);
    const ends = open === "fence" && lines.length > 1 && line.match(FENCE)?.[1] === lines[0].match(FENCE)[1];
    if (ends || open === "heading" || open === "rule") close();
  }
  close();
  return found;
}

function blockElement(source, depth) {
  if (depth >= MAX_NESTING) return node("p", inline(source));
  const lines = source.split("\n");
  switch (lineKind(lines[0])) {
    case "heading": {
      const [opening, marks] = source.match(HEADING);
      return node(`h${Math.min(marks.length + 2, 6)}`, inline(withoutClosingMarks(source.slice(opening.length))));
    }
    case "fence": {
      const ends = lines.length > 1 && FENCE.test(lines.at(-1));
      return node("pre", [node("code", [lines.slice(1, ends ? -1 : undefined).join("\n")])]);
    }
    case "rule":
      return node("hr", []);
    case "bullets":
    case "numbers":
      return list(lines, depth);
    case "quote": {
      const quote = node("blockquote", []);
      renderNested(quote, lines.map((line) => line.replace(QUOTE, "")).join("\n"), depth + 1);
      return quote;
    }
    case "table":
      return DIVIDER.test(lines[1] ?? "") ? table(lines) : node("p", inline(source));
    default:
      return node("p", inline(source));
  }
}

/** The text of a heading without the marks that may close it. */
function withoutClosingMarks(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return text.slice(0, end).trimEnd();
}

function list(lines, depth) {
  const items = [];
  const indent = lines[0].match(ITEM)[1].length;
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item && item[1].length <= indent) items.push([item[3]]);
    else items.at(-1).push(line.slice(Math.min(indent + 2, line.search(/\S|$/))));
  }
  const ordered = /\d/.test(lines[0].match(ITEM)[2]);
  const element = node(ordered ? "ol" : "ul", []);
  if (ordered) element.start = Number.parseInt(lines[0].match(ITEM)[2], 10);
  for (const [first, ...more] of items) {
    const item = node("li", inline(first));
    const rest = more.join("\n").trim();
    if (rest) {
      const below = node("div", []);
      renderNested(below, rest, depth + 1);
      item.append(below);
    }
    element.append(item);
  }
  return element;
}

function table(lines) {
  const cells = (line, tag) =>
    node("tr", line.trim().slice(1, -1).split("|").map((cell) => node(tag, inline(cell.trim()))));
  const rows = lines.slice(2).filter((line) => line.trim());
  const body = node("tbody", rows.map((row) => cells(row, "td")));
  const scroll = node("div", [node("table", [node("thead", [cells(lines[0], "th")]), body])]);
  scroll.className = "scroll";
  return scroll;
}
