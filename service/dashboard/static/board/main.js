// The dashboard: which view the address names, and who may see it.

import { headers, use } from "../chat/access.js";
import { get, may } from "./api.js";
import { agents } from "./agents.js";
import { audit, tenants } from "./administration.js";
import { watchChanges } from "./changes.js";
import { deadLetters } from "./dead_letters.js";
import { watchHealth } from "./health.js";
import { message } from "./message.js";
import { messages } from "./messages.js";
import { overview } from "./overview.js";
import { refresh } from "./refresh.js";
import { el, put } from "./show.js";
import { thread, threads } from "./threads.js";
import { topics } from "./topics.js";
import { webhooks } from "./webhooks.js";

// `probe`: a call that is refused with 403 to those who may not see the view.
const VIEWS = [
  { name: "overview", title: "Overview", show: overview, probe: "queues" },
  { name: "messages", title: "Messages", show: messages, one: message, probe: "messages?limit=1" },
  { name: "threads", title: "Threads", show: threads, one: thread, probe: "threads?limit=1" },
  { name: "dead-letters", title: "Dead letters", show: deadLetters, probe: "messages?limit=1" },
  { name: "agents", title: "Agents", show: agents, probe: "agents" },
  { name: "topics", title: "Topics", show: topics, probe: "topics" },
  { name: "webhooks", title: "Webhooks", show: webhooks, probe: "webhooks" },
  { name: "tenants", title: "Tenants and keys", show: tenants, probe: "keys" },
  { name: "audit", title: "Audit", show: audit, probe: "audit?limit=1" },
];

const OPERATORS = { probe: "instances?limit=1" };

const content = document.querySelector("#content");
const nav = document.querySelector("#views");
let leave = new AbortController();
let allowed = VIEWS;

/** The view that the address names: `#messages/ID` or `#messages?state=failed`. */
function wanted() {
  const [path, query = ""] = location.hash.slice(1).split("?", 2);
  const [name, ...rest] = path.split("/");
  const view = allowed.find((found) => found.name === name) ?? allowed[0];
  return { view, id: view?.one && rest.length ? decodeURIComponent(rest.join("/")) : null, query: new URLSearchParams(query) };
}

/** What a view may use: it stops with `signal`, when another one is shown. */
function context(signal, query) {
  return {
    signal,
    query,
    /** Do it now, and again as refresh.js says, while the page can be seen. A refusal is shown in its place. */
    every(seconds, act, place, of = []) {
      const guarded = async () => {
        try {
          if (!document.hidden || !place.hasChildNodes()) await act();
          return true;
        } catch (error) {
          if (signal.aborted || error.name === "AbortError") return false;
          if (error.status === 401) signIn(error);
          else {
            delete place.dataset.seen; // what it showed is gone
            put(place, el("p.bad", { role: "alert" }, error.message));
          }
          return false;
        }
      };
      return refresh({ seconds, act: guarded, of, signal });
    },
  };
}

function show() {
  leave.abort();
  leave = new AbortController();
  const { view, id, query } = wanted();
  if (!view) {
    content.replaceChildren(el("p.empty", {}, "This key or token may see none of the views."));
    return;
  }
  document.title = `${id ?? view.title} - Treadle`;
  for (const item of nav.querySelectorAll("a")) {
    if (item.dataset.view === view.name) {
      item.setAttribute("aria-current", "page");
      item.parentNode.parentNode.parentNode.scrollLeft = item.offsetLeft - 60;
    } else item.removeAttribute("aria-current");
  }
  const root = el("div.view", { data: { view: view.name } });
  content.replaceChildren(root);
  const at = context(leave.signal, query);
  if (id === null) view.show(root, at);
  else view.one(root, at, id);
}

function showNav() {
  nav.replaceChildren(...allowed.map(({ name, title }) => el("li", {}, el("a", { href: `#${name}`, data: { view: name } }, title))));
}

async function mayRead({ probe }) {
  try {
    await get(probe);
    return true;
  } catch (error) {
    if (error.status === 401) throw error;
    return error.status !== 403;
  }
}

async function begin() {
  try {
    const [operates, ...reads] = await Promise.all([OPERATORS, ...VIEWS].map(mayRead));
    may.operate = operates;
    allowed = VIEWS.filter((_, index) => reads[index]);
  } catch (error) {
    if (error.status === 401) {
      signIn(error);
      return;
    }
  }
  showNav();
  watchChanges();
  show();
}

function signIn(refusal) {
  leave.abort();
  const said = headers().Authorization ? el("p.bad", { role: "alert" }, refusal.message) : "";
  const field = el("input", { type: "password", id: "key", autocomplete: "off", spellcheck: false, required: true });
  const form = el("form.signin", {}, el("h1", {}, "Sign in"), el("p", {}, "This service needs a key or an access token. It is kept until this tab is closed."), said, el("label", { htmlFor: "key" }, "Key"), field, el("button.primary", {}, "Use"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    use(field.value);
    begin();
  });
  content.replaceChildren(form);
  field.focus();
}

addEventListener("hashchange", () => {
  show();
  content.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.querySelector("#skip").addEventListener("click", (event) => {
  event.preventDefault();
  content.focus();
});
begin();
watchHealth();
