// A message and its answer, as the events of the message's log describe them.

import { asLine, asText, element } from "./dom.js";
import { render } from "./markdown.js";
import { Plan } from "./plan.js";
import { QuestionForm } from "./question_form.js";

const OVER = ["done", "failed", "cancelled"];
const CANCELLABLE = ["waiting", "working", "retry", "parked"];

export class Exchange {
  constructor(request) {
    this.text = ""; // what the current attempt has streamed
    this.progress = null; // the line of the current attempt's progress
    this.element = element("li", "exchange");
    this.agent = element("p", "agent");
    this.plan = new Plan();
    this.steps = element("ol", "steps");
    this.answer = element("div", "answer text");
    this.result = element("div", "answer result text");
    this.question = new QuestionForm();
    this.status = element("p");
    this.cancel = element("button", "", "Cancel");
    this.cancel.type = "button";
    this.asides = element("ol", "asides");
    const statusLine = element("div", "status");
    statusLine.append(this.status, this.cancel);
    const response = element("div", "response");
    response.append(this.agent, this.plan.element, this.steps, this.answer, this.result, this.question.element, statusLine);
    this.element.append(element("p", "visually-hidden", "You said"), element("p", "request", asText(request)), response, this.asides);
    this.setState("sending", "Sending");
  }

  /** The server has stored the message. */
  accepted(message_id, onCancel) {
    this.messageId = message_id;
    this.element.dataset.message = message_id;
    this.cancel.addEventListener("click", () => {
      this.cancel.disabled = true;
      onCancel();
    });
  }

  setState(state, text = "") {
    this.element.dataset.state = state;
    this.status.textContent = text;
    this.cancel.hidden = !CANCELLABLE.includes(state);
    this.allowCancel();
  }

  allowCancel() {
    this.cancel.disabled = false;
  }

  get state() {
    return this.element.dataset.state;
  }

  get stateText() {
    return this.status.textContent;
  }

  get agentName() {
    return this.agent.textContent;
  }

  get isOver() {
    return OVER.includes(this.state);
  }

  get isAside() {
    return this.element.classList.contains("aside");
  }

  /** Show an exchange beside this one. */
  addAside(exchange) {
    exchange.element.classList.add("aside");
    this.asides.append(exchange.element);
  }

  /** Forget what the last attempt said: only the attempt that succeeds counts. */
  dropAttempt() {
    this.text = "";
    this.progress = null;
    this.steps.replaceChildren();
    this.result.replaceChildren();
    this.question.close();
  }

  /** Apply an event of the message's log. */
  apply(event, data) {
    const fields = data !== null && typeof data === "object" ? data : {};
    if (this.plan.apply(event, data)) return;
    switch (event) {
      case "queued":
        this.dropAttempt();
        this.agent.textContent = fields.agent ?? "";
        this.setState("waiting", "Waiting");
        break;
      case "started":
        this.dropAttempt();
        this.plan.startAttempt();
        this.setState("working", fields.attempt > 1 ? `Working, attempt ${fields.attempt}` : "Working");
        break;
      case "chunk":
        this.text += fields.chunk ?? "";
        break;
      case "retry":
        this.dropAttempt();
        this.setState("retry", `Attempt ${fields.attempt} failed: ${fields.error} It will be retried.`);
        break;
      case "parked":
        if (fields.hold === "input") this.question.open(this.messageId, fields);
        this.setState("parked", fields.hold === "input" ? "Waiting for your answer" : "Waiting for other messages");
        break;
      case "input":
        this.question.close();
        this.steps.append(stepLine("answered", fields.input));
        break;
      case "progress":
        this.showProgress(data);
        break;
      case "done":
      case "error":
      case "cancelled":
        this.end(event, fields);
        break;
      default:
        this.steps.append(stepLine(event, data));
    }
  }

  end(event, { result, error }) {
    this.plan.end(event === "done");
    if (event === "done") {
      const shown = asText(result);
      if (shown !== this.text && shown !== this.text.trim()) this.showResult(result);
      this.setState("done");
    } else if (event === "error") {
      this.setState("failed", `Failed: ${error}`);
    } else {
      this.question.close();
      this.setState("cancelled", "Cancelled");
    }
  }

  showResult(result) {
    if (typeof result === "string") render(this.result, result);
    else this.result.replaceChildren(element("pre", "", asText(result)));
  }

  /** All progress of an attempt is one line: a bar where the data has a number for it, and the text. */
  showProgress(data) {
    if (this.progress === null) {
      this.progress = element("li", "progress");
      this.steps.append(this.progress);
    }
    this.progress.replaceChildren();
    const share = doneShare(data);
    if (share !== null) {
      const bar = element("progress");
      bar.max = 1;
      bar.value = share;
      bar.setAttribute("aria-label", "Progress");
      this.progress.append(bar, ` ${Math.round(share * 100)}% `);
    }
    const text = typeof data === "string" ? data : data?.message ?? data?.note;
    this.progress.append(text ?? (share === null ? asLine(data) : ""));
  }

  paint() {
    render(this.answer, this.text);
  }
}

/** An event as a line: a tool by its own name, any other event by its type. */
function stepLine(event, data) {
  const line = element("li");
  const tool = event === "tool" ? data?.name ?? data?.tool : undefined;
  line.append(element("b", "", tool || event), ` ${asLine(tool ? { ...data, name: undefined, tool: undefined } : data)}`);
  return line;
}

/** The share that is done, from 0 to 1; null where the data has no number for it. */
function doneShare(data) {
  if (typeof data === "number") return data > 1 ? Math.min(data / 100, 1) : Math.max(data, 0);
  if (data === null || typeof data !== "object") return null;
  const number = (name) => (typeof data[name] === "number" ? data[name] : null);
  const share = number("percent") !== null ? number("percent") / 100 : number("fraction") ?? number("progress");
  if (share !== null) return Math.max(0, Math.min(share, 1));
  const total = number("total") ?? number("of");
  const done = number("done") ?? number("step") ?? number("current");
  return total > 0 && done !== null ? Math.max(0, Math.min(done / total, 1)) : null;
}
