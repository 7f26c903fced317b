// The page around a conversation: the thread and the agent that are chosen, the message field, the connection's state.

import { headers, use } from "./access.js";
import { Conversation } from "./conversation.js";
import { element, shorten } from "./dom.js";
import { serviceUrl, storage } from "./storage.js";

const THREAD_ID_MAX_CHARS = 255; // as in service/limits.py
const THREAD_ID_FORBIDDEN = /[/\u0000-\u001f\u007f-\u009f]/;
const AGENTS_PATIENCE_SECONDS = 2; // for the list of agents, before the thread opens without it
const RELOAD_SECONDS = 3; // until the lists are asked for again
const NEAR_END_PIXELS = 80; // a reader this close to the end follows new text
const LOG_LINES = 1000; // of the raw log, which keeps the last ones
const LOG_LINE_CHARS = 2000;

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const agents = new Map(); // by name, as GET /agents describes them

let conversation = null;
let paintRequested = false;
let followsEnd = true;

// What the conversation asks of the page

const view = {
  exchanges: page.exchanges,
  empty: page.empty,
  announce: page.announce,
  showConnection(state, text) {
    page.connection.dataset.state = state;
    if (page.connection.textContent !== text) page.connection.textContent = text; // it is read aloud at each change
    page.connect.hidden = state !== "off" && text !== "Refused";
    page.disconnect.hidden = !page.connect.hidden;
    if (state === "open") view.showNotice("");
    if (text === "Refused") loadLists(); // which asks for another key, if that is the reason
  },
  showNotice(text) {
    page.notice.textContent = text;
    page.notice.hidden = !text;
  },
  log(line) {
    page.logLines.append(element("li", "", shorten(line, LOG_LINE_CHARS)));
    if (page.logLines.childElementCount > LOG_LINES) page.logLines.firstElementChild.remove();
  },
  paintSoon(of) {
    if (paintRequested) return;
    paintRequested = true;
    requestAnimationFrame(() => {
      paintRequested = false;
      const exchanges = [...of.toPaint];
      of.toPaint.clear(); // first, so that one that cannot be painted keeps no other from it
      for (const exchange of exchanges) exchange.paint();
      page.phase.textContent = of.phase;
      showHint();
      scroll();
    });
  },
  scrollToEnd() {
    followsEnd = true;
    scroll();
  },
  /** Whether some agent names this one to answer while it is busy. */
  answersAsides: (name) => [...agents.values()].some(({ settings }) => settings?.while_busy === name),
};

function scroll() {
  if (followsEnd) page.scroll.scrollTop = page.scroll.scrollHeight;
}

// The thread

function open(thread) {
  conversation?.close();
  page.logLines.replaceChildren();
  page.phase.textContent = "idle";
  view.showNotice("");
  page.thread.value = thread;
  document.title = `${thread} - Treadle chat`;
  storage.write("thread", thread);
  conversation = new Conversation(thread, view);
  page.text.focus();
}

function threadInAddress() {
  const text = location.hash.slice(1);
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function chooseThread() {
  const thread = page.thread.value.trim();
  if (thread.length > THREAD_ID_MAX_CHARS || THREAD_ID_FORBIDDEN.test(thread)) {
    view.showNotice(`A thread name has at most ${THREAD_ID_MAX_CHARS} characters, without slashes and control characters.`);
    return;
  }
  if (thread) location.hash = encodeURIComponent(thread);
  page.text.focus();
}

// The agent

async function fetchList(path) {
  const given = headers();
  const response = await fetch(new URL(path, serviceUrl), { headers: given });
  const isCurrent = given.Authorization === headers().Authorization; // else another key was given meanwhile
  if (response.status === 401 && isCurrent) askForKey();
  if (!response.ok) throw new Error(response.statusText);
  const next = /<([^>]*)>; rel="next"/.exec(response.headers.get("Link") ?? "");
  return { items: await response.json(), cursor: next && new URL(next[1], serviceUrl).searchParams.get("cursor") };
}

async function fetchAgents() {
  const found = [];
  let cursor = "";
  do {
    const list = await fetchList(`agents?limit=1000${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    found.push(...list.items);
    cursor = list.cursor;
  } while (cursor);
  return found;
}

async function loadLists() {
  try {
    const [known, threads] = await Promise.all([fetchAgents(), fetchList("threads?limit=50")]);
    showAgents(known);
    page.threads.replaceChildren(...threads.items.map(({ thread_id }) => new Option("", thread_id)));
  } catch {
    if (page.keyForm.hidden) setTimeout(loadLists, RELOAD_SECONDS * 1000); // the connection's state shows the reason
  }
}

// The key

function askForKey() {
  if (!page.keyForm.hidden) return;
  page.keyForm.hidden = false;
  view.showConnection("lost", "Needs a key");
  view.showNotice("This service needs a key or an access token.");
  page.key.focus();
}

async function useKey() {
  use(page.key.value);
  page.key.value = "";
  page.keyForm.hidden = true;
  view.showNotice("");
  await loadLists();
  openIfAllowed();
}

/** Without a key that the service takes, the form for it stays in place of the conversation. */
function openIfAllowed() {
  if (page.keyForm.hidden) open(threadInAddress());
}

function showAgents(known) {
  const chosen = page.agent.value || storage.read("agent", "");
  page.agent.replaceChildren();
  for (const agent of known.sort((a, b) => b.is_default - a.is_default || a.agent.localeCompare(b.agent))) {
    agents.set(agent.agent, agent);
    const option = new Option(agent.is_default ? `${agent.agent} (default)` : agent.agent, agent.agent);
    option.title = agent.description ?? "";
    page.agent.append(option);
  }
  if (agents.has(chosen)) page.agent.value = chosen;
  page.example.hidden = !agents.has("resolver");
  showHint();
}

function chooseAgent(name) {
  page.agent.value = name;
  storage.write("agent", name);
  showHint();
}

/** Whether an agent takes only objects, no text. */
const takesObject = (agent) => Boolean(agent?.input) && !agent.input.anyOf?.some(({ type }) => type === "string");

function showHint() {
  const agent = agents.get(page.agent.value);
  const busy = conversation?.working?.agentName;
  const asideAgent = agents.get(busy)?.settings?.while_busy;
  const canBeAside = Boolean(asideAgent) && [busy, asideAgent].includes(page.agent.value);
  const isAside = canBeAside && !page.asTurn.checked;
  page.turnChoice.hidden = !canBeAside;
  if (takesObject(agent)) page.hint.textContent = "This agent takes a JSON object.";
  else if (isAside) page.hint.textContent = `${asideAgent} answers while ${busy} is working.`;
  else if (canBeAside) page.hint.textContent = `Waits until ${busy} is done.`;
  else page.hint.textContent = "Enter sends, Shift+Enter starts a new line.";
  page.text.placeholder = takesObject(agent) ? '{"...": "..."}' : isAside ? "Ask how it is going" : "Write a message";
}

// The message

/** The message as the chosen agent takes it; throws where that is an object and the text is not one. */
function messageFrom(text) {
  if (!takesObject(agents.get(page.agent.value))) return text;
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("the text is not an object");
  return value;
}

function send() {
  const text = page.text.value;
  if (!text.trim()) {
    page.text.focus();
    return;
  }
  const agent = page.agent.value;
  const asTurn = page.asTurn.checked && !page.turnChoice.hidden;
  try {
    conversation.submit({ message: messageFrom(text), ...(agent && { agent }), ...(asTurn && { aside: false }) });
  } catch (error) {
    view.showNotice(`This agent takes a JSON object: ${error.message}.`);
    return;
  }
  page.asTurn.checked = false;
  page.text.value = "";
  fitTextField();
  view.showNotice("");
}

function fitTextField() {
  page.text.style.height = "auto";
  page.text.style.height = `${page.text.scrollHeight + 2}px`;
}

page.threadForm.addEventListener("submit", (event) => {
  event.preventDefault();
  chooseThread();
});
page.connect.addEventListener("click", () => conversation?.socket.reopen());
page.disconnect.addEventListener("click", () => conversation?.socket.disconnect());
page.keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey();
});
page.messageForm.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
page.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.messageForm.requestSubmit();
});
page.text.addEventListener("input", fitTextField);
page.agent.addEventListener("change", () => chooseAgent(page.agent.value));
page.asTurn.addEventListener("change", showHint);
page.example.addEventListener("click", () => {
  chooseAgent("resolver");
  page.text.value = page.example.dataset.query;
  fitTextField();
  page.text.focus();
});
page.scroll.addEventListener("scroll", () => {
  followsEnd = page.scroll.scrollHeight - page.scroll.scrollTop - page.scroll.clientHeight < NEAR_END_PIXELS;
});
addEventListener("hashchange", () => {
  const thread = threadInAddress();
  if (thread && thread !== conversation?.thread) open(thread);
});
addEventListener("online", () => conversation?.socket.check());
document.addEventListener("visibilitychange", () => document.hidden || conversation?.socket.check());

const thread = threadInAddress() || storage.read("thread") || `chat-${Math.random().toString(36).slice(2, 8)}`;
history.replaceState(null, "", `#${encodeURIComponent(thread)}`);
// The agents come first, because they tell asides from turns; a slow list does not keep the thread from opening.
const patience = new Promise((resolve) => setTimeout(resolve, AGENTS_PATIENCE_SECONDS * 1000));
Promise.race([loadLists(), patience]).then(openIfAllowed);
