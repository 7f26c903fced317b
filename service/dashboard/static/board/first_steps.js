// On a system with few messages: three things to try, each of which works with the agents that are there.

import { call, get } from "./api.js";
import { action, el } from "./show.js";

export async function showFirstSteps(place, signal) {
  const agents = await get("agents", {}, signal);
  const agent = choose(agents);
  const said = el("p", { role: "status" });
  const submit = async (body) => {
    const accepted = await call("POST", "messages", { body });
    location.hash = `messages/${accepted.message_id}`;
  };
  const step = (text, body, then) => el("li", {}, action(text, () => submit({ ...body, agent: agent.agent }), { out: said }), el("span", {}, then));
  place.dataset.agents = agents.length > 0;
  place.replaceChildren(el("section.first", { "aria-label": "First steps" }, el("h2", {}, agent ? "Three things to try" : "First, start a worker"),
    agent
      ? el("ol", {},
        step(`Send a message to ${agent.agent}`, { message: "Hello, Treadle!", metadata: { delay_ms: 150 } }, "and watch the answer stream in"),
        agent.agent === "echo"
          ? step("Make one fail", { message: "Fail once, please.", max_attempts: 1, metadata: { fail_times: 1 } }, "and see why, and redrive it")
          : step("Send one that waits a minute", { message: "Hello, later!", delay_seconds: 60 }, "and see why it waits, and run it now"),
        el("li", {}, el("a.button", { href: "chat" }, "Open a chat"), el("span", {}, "with a thread of messages, live")))
      : el("p", {}, agents.length ? "No agent that is registered takes text. " : "No agent is registered yet. ", el("code", {}, "treadle work"), " starts a worker with the agent echo; what to try appears here then."),
    said));
}

/** An agent that takes text: echo, which costs nothing and fails when it is asked to, else the default agent, else any. */
function choose(agents) {
  const able = agents.filter(({ input }) => input === null);
  return able.find(({ agent }) => agent === "echo") ?? able.find(({ is_default }) => is_default) ?? able[0] ?? null;
}
