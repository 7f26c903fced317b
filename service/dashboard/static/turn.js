// One message of a chat: what was asked, and what its events say of it.

import { brief, make, shown } from "./make.js";
import { render } from "./markdown.js";
import { Plan } from "./plan.js";
import { Question } from "./question.js";

const ENDS = ["done", "failed", "cancelled"];

export class Turn {
  constructor(asked) {
    this.text = ""; // of the attempt that runs
    this.element = make("li", "turn");
    this.asked = make("p", "asked", shown(asked));
    this.agent = make("p", "agent");
    this.plan = new Plan();
    this.steps = make("ol", "steps");
    this.progress = null;
    this.answer = make("div", "answer text");
    this.result = make("div", "answer result text");
    this.question = new Question();
    const state = make("div", "state");
    this.state = make("p");
    this.cancel = make("button", "", "Cancel");
    this.cancel.type = "button";
    state.append(this.state, this.cancel);
    this.asides = make("ol", "asides");
    const said = make("div", "said");
    said.append(this.agent, this.plan.element, this.steps, this.answer, this.result, this.question.element, state);
    this.element.append(make("p", "unseen", "You said"), this.asked, said, this.asides);
    this.become("sending", "Sending");
  }

  become(state, text = "") {
    this.element.dataset.state = state;
    this.state.textContent = text;
    this.cancel.hidden = !["waiting", "working", "retry", "parked"].includes(state);
    this.cancel.disabled = false;
  }

  get over() {
    return ENDS.includes(this.element.dataset.state);
  }

  /** What was said while this one is at work stands beside it. */
  takeAside(turn) {
    turn.element.classList.add("aside");
    this.asides.append(turn.element);
  }

  get isAside() {
    return this.element.classList.contains("aside");
  }

  /** The attempt is over or a new one begins: what it said does not count. */
  drop() {
    this.text = "";
    this.progress = null;
    this.steps.replaceChildren();
    this.result.replaceChildren();
    this.question.close();
  }

  see(event, data) {
    const named = data !== null && typeof data === "object" ? data : {};
    if (this.plan.see(event, data)) return undefined;
    switch (event) {
      case "queued":
        this.drop();
        this.agent.textContent = named.agent ?? "";
        return this.become("waiting", "Waiting");
      case "started":
        this.drop();
        this.plan.again();
        return this.become("working", named.attempt > 1 ? `Working, attempt ${named.attempt}` : "Working");
      case "chunk":
        this.text += named.chunk ?? "";
        return undefined;
      case "retry":
        this.drop();
        return this.become("retry", `Attempt ${named.attempt} failed: ${named.error} It will be tried again.`);
      case "parked":
        if (named.hold === "input") this.question.ask(this.element.dataset.message, named);
        return this.become("parked", named.hold === "input" ? "Waiting for your answer" : "Waiting for other messages");
      case "input":
        this.question.close();
        return this.steps.append(step("answered", named.input));
      case "done":
        this.plan.end(true);
        if (shown(named.result) !== this.text.trim() && shown(named.result) !== this.text) this.put(named.result);
        return this.become("done");
      case "error":
        this.plan.end(false);
        return this.become("failed", `Failed: ${named.error}`);
      case "cancelled":
        this.plan.end(false);
        this.question.close();
        return this.become("cancelled", "Cancelled");
      case "progress":
        return this.advance(data);
      default:
        return this.steps.append(step(event, data));
    }
  }

  put(result) {
    if (typeof result === "string") render(this.result, result);
    else this.result.replaceChildren(make("pre", "", shown(result)));
  }

  /** All progress on one line: a bar where there is a number for it, and words. */
  advance(data) {
    if (this.progress === null) {
      this.progress = make("li", "progress");
      this.steps.append(this.progress);
    }
    const share = portion(data);
    this.progress.replaceChildren();
    if (share !== null) {
      const bar = make("progress");
      bar.max = 1;
      bar.value = share;
      bar.setAttribute("aria-label", "Progress");
      this.progress.append(bar, ` ${Math.round(share * 100)}% `);
    }
    const words = typeof data === "string" ? data : (data?.message ?? data?.note ?? (share === null ? brief(data) : ""));
    this.progress.append(words);
  }

  paint() {
    render(this.answer, this.text);
  }
}

function step(event, data) {
  const item = make("li");
  const name = data?.name ?? data?.tool;
  item.append(make("b", "", event === "tool" && name ? name : event), ` ${event === "tool" && name ? brief({ ...data, name: undefined, tool: undefined }) : brief(data)}`);
  return item;
}

/** How much of it is done, from 0 to 1; null where the data does not say. */
function portion(data) {
  if (typeof data === "number") return data > 1 ? Math.min(data / 100, 1) : Math.max(data, 0);
  if (data === null || typeof data !== "object") return null;
  const number = (name) => (typeof data[name] === "number" ? data[name] : null);
  const share = number("percent") !== null ? number("percent") / 100 : number("fraction") ?? number("progress");
  const total = number("total") ?? number("of");
  const done = number("done") ?? number("step") ?? number("current");
  if (share !== null) return Math.max(0, Math.min(share, 1));
  return total > 0 && done !== null ? Math.max(0, Math.min(done / total, 1)) : null;
}
