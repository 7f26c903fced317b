// One message of a chat: what was asked, and what its events say of it.

export const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};
export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));


export class Turn {
  constructor(asked, onCancel) {
    this.text = ""; // of the attempt that runs
    this.element = make("li", "turn");
    this.asked = make("p", "asked", shown(asked));
    this.agent = make("p", "agent");
    this.steps = make("ol", "steps");
    this.progress = null;
    this.answer = make("div", "answer");
    this.result = make("div", "answer result");
    const state = make("div", "state");
    this.state = make("p");
    this.cancel = make("button", "", "Cancel");
    this.cancel.type = "button";
    this.cancel.addEventListener("click", onCancel);
    state.append(this.state, this.cancel);
    this.element.append(make("p", "unseen", "You said"), this.asked, this.agent, this.steps, this.answer, this.result, state);
    this.become("sending", "Sending");
  }

  become(state, text = "") {
    this.element.dataset.state = state;
    this.state.textContent = text;
    this.cancel.hidden = !["waiting", "working", "retry"].includes(state);
    this.cancel.disabled = false;
  }

  get over() {
    return ["done", "failed", "cancelled"].includes(this.element.dataset.state);
  }

  /** The attempt is over and comes to nothing: what it said does not count. */
  drop() {
    this.text = "";
    this.progress = null;
    this.steps.replaceChildren();
    this.result.textContent = "";
  }

  see(event, data) {
    const named = data !== null && typeof data === "object" ? data : {};
    switch (event) {
      case "queued":
        this.drop();
        this.agent.textContent = named.agent ?? "";
        return this.become("waiting", "Waiting");
      case "started":
        return this.become("working", named.attempt > 1 ? `Working, attempt ${named.attempt}` : "Working");
      case "chunk":
        this.text += named.chunk ?? "";
        return undefined;
      case "retry":
        this.drop();
        return this.become("retry", `Attempt ${named.attempt} failed: ${named.error} It will be tried again.`);
      case "done":
        if (shown(named.result) !== this.text.trim() && shown(named.result) !== this.text) {
          this.result.textContent = shown(named.result);
        }
        return this.become("done");
      case "error":
        return this.become("failed", `Failed: ${named.error}`);
      case "cancelled":
        return this.become("cancelled", "Cancelled");
      case "progress":
        return this.advance(data);
      default:
        return this.steps.append(step(event, data));
    }
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
    // Only what is new is added, so that a selection in the text before it stays.
    const drawn = this.answer.firstChild?.data ?? "";
    if (this.text.startsWith(drawn) && drawn) this.answer.firstChild.appendData(this.text.slice(drawn.length));
    else this.answer.textContent = this.text;
  }
}

function step(event, data) {
  const item = make("li");
  const name = data?.name ?? data?.tool;
  item.append(make("b", "", event === "tool" && name ? name : event), ` ${event === "tool" && name ? brief({ ...data, name: undefined, tool: undefined }) : brief(data)}`);
  return item;
}

/** An event's data on one line: `name: value, ...` */
function brief(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return shown(data ?? "");
  const parts = Object.entries(data).filter(([, value]) => value !== undefined);
  const text = parts.map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  return text.length > 300 ? `${text.slice(0, 300)} ...` : text;
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
