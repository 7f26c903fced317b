// The page around a chat: which thread, which agent, and what is shown of its connection.

import { base, Chat, stored } from "./chat.js";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

let chat = null;
let painting = false;
let atEnd = true;

function paintSoon(of) {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    for (const turn of of.dirty) turn.paint();
    of.dirty.clear();
    explain();
    scroll();
  });
}

function scroll(always = false) {
  if (always) atEnd = true;
  if (atEnd) page.scroll.scrollTop = page.scroll.scrollHeight;
}

function tell(state, text) {
  page.connection.dataset.state = state;
  if (page.connection.textContent !== text) page.connection.textContent = text;
  if (state === "open") notice("");
}

function notice(text) {
  page.notice.textContent = text;
  page.notice.hidden = !text;
}

function open(thread) {
  chat?.close();
  notice("");
  page.thread.value = thread;
  document.title = `${thread} - Treadle chat`;
  stored.set("thread", thread);
  chat = new Chat(thread, { ...page, tell, notice, paintSoon, answersMeanwhile, toEnd: () => scroll(true) });
  page.text.focus();
}

function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1);
  }
}

const agents = new Map();

/** Whether an agent takes objects and no text. */
const takesObject = (agent) => Boolean(agent?.input) && !agent.input.anyOf?.some(({ type }) => type === "string");

/** Whether this agent is there to answer while another one is at work. */
const answersMeanwhile = (name) => [...agents.values()].some(({ settings }) => settings?.while_busy === name);

async function fill() {
  try {
    const [known, threads] = await Promise.all(
      ["agents", "threads?limit=50"].map(async (path) => {
        const answer = await fetch(new URL(path, base));
        if (!answer.ok) throw new Error(answer.statusText);
        return answer.json();
      }),
    );
    const chosen = page.agent.value || stored.get("agent", "");
    page.agent.replaceChildren();
    for (const agent of known.sort((a, b) => b.is_default - a.is_default || a.agent.localeCompare(b.agent))) {
      agents.set(agent.agent, agent);
      const option = new Option(agent.is_default ? `${agent.agent} (default)` : agent.agent, agent.agent);
      option.title = agent.description ?? "";
      page.agent.append(option);
    }
    if (agents.has(chosen)) page.agent.value = chosen;
    page.offer.hidden = !agents.has("resolver");
    explain();
    page.threads.replaceChildren(...threads.map(({ thread_id }) => new Option("", thread_id)));
  } catch {
    setTimeout(fill, 3000); // the service is away; the connection's state says so
  }
}

function explain() {
  const agent = agents.get(page.agent.value);
  const busy = chat?.working?.agent.textContent;
  const other = agents.get(busy)?.settings?.while_busy;
  const asks = other && [busy, other].includes(page.agent.value); // who is asked now is not who is chosen
  const hints = [
    [takesObject(agent), "This agent takes an object: write JSON."],
    [asks && !page.later.checked, `${other} answers while ${busy} is at work.`],
    [asks, `Waits until ${busy} is done.`],
    [true, "Enter sends, Shift and Enter begins a line."],
  ];
  page.turn.hidden = !asks;
  page.hint.textContent = hints.find(([applies]) => applies)[1];
  page.text.placeholder = takesObject(agent) ? '{"...": "..."}' : asks && !page.later.checked ? "Ask how it is going" : "Say something";
}

/** The text as the agent takes it; throws where it is to be JSON and is none. */
function written(text) {
  if (!takesObject(agents.get(page.agent.value))) return text;
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error("it is no object");
  return value;
}

function grow() {
  page.text.style.height = "auto";
  page.text.style.height = `${page.text.scrollHeight + 2}px`;
}

page.choose.addEventListener("submit", (submit) => {
  submit.preventDefault();
  const thread = page.thread.value.trim();
  if (/[/\u0000-\u001f\u007f-\u009f]/.test(thread)) return notice("A thread's name has no slash.");
  if (thread) location.hash = encodeURIComponent(thread);
  page.text.focus();
  return undefined;
});
page.compose.addEventListener("submit", (submit) => {
  submit.preventDefault();
  const text = page.text.value;
  if (!text.trim()) return page.text.focus();
  try {
    const agent = page.agent.value;
    chat.say({ message: written(text), ...(agent && { agent }), ...(page.later.checked && !page.turn.hidden && { aside: false }) });
    page.later.checked = false;
    page.text.value = "";
    grow();
    notice("");
  } catch (error) {
    notice(`This agent takes an object: ${error.message}.`);
  }
  return undefined;
});
page.text.addEventListener("keydown", (key) => {
  if (key.key === "Enter" && !key.shiftKey && !key.isComposing) {
    key.preventDefault();
    page.compose.requestSubmit();
  }
});
page.text.addEventListener("input", grow);
page.agent.addEventListener("change", () => {
  stored.set("agent", page.agent.value);
  explain();
});
page.later.addEventListener("change", explain);
page.offer.addEventListener("click", () => {
  page.agent.value = "resolver";
  stored.set("agent", "resolver");
  page.text.value = page.offer.dataset.query;
  explain();
  grow();
  page.text.focus();
});
page.scroll.addEventListener("scroll", () => {
  atEnd = page.scroll.scrollHeight - page.scroll.scrollTop - page.scroll.clientHeight < 80;
});
addEventListener("hashchange", () => named() && named() !== chat?.thread && open(named()));
addEventListener("online", () => chat?.hurry());
document.addEventListener("visibilitychange", () => document.hidden || chat?.hurry());

const thread = named() || stored.get("thread") || `chat-${Math.random().toString(36).slice(2, 8)}`;
history.replaceState(null, "", `#${encodeURIComponent(thread)}`);
// The agents first, for they tell asides from turns; but not for ever.
Promise.race([fill(), new Promise((done) => setTimeout(done, 2000))]).then(() => open(thread));
