// The plan of a message whose agent makes one: its tasks, who waits for whom, and how far each is.

import { render } from "./markdown.js";
import { make } from "./make.js";

const STATES = { waiting: "waiting", started: "running", done: "done", failed: "failed", kept: "kept from before" };

export class Plan {
  constructor() {
    this.element = make("section", "plan");
    this.element.hidden = true;
    this.head = make("p", "stage");
    this.list = make("ol", "tasks");
    this.element.append(this.head, this.list);
    this.tasks = new Map(); // by id: {row, state, title}
    this.results = new Map(); // by id; they outlast an attempt
    this.stage = "";
  }

  /** Whether the event was about the plan. */
  see(event, data) {
    if (event === "plan" && Array.isArray(data?.tasks)) this.make(data.tasks);
    else if (event === "progress" && data?.stage === "plan") this.advance(data);
    else if (event === "progress" && this.tasks.size && ["task", "answer"].includes(data?.stage)) this.advance(data);
    else if (event === "step" && this.stage && typeof data?.name === "string") this.keep(data);
    else return false;
    this.tell();
    return true;
  }

  /** An attempt begins: what ran does not run any more, what is finished will say so again. */
  again() {
    this.stage = "";
    for (const task of this.tasks.values()) if (["started", "failed"].includes(task.state)) this.put(task, "waiting");
    this.element.classList.remove("over");
    if (this.tasks.size) this.tell();
  }

  /** The message is over. */
  end(done) {
    this.element.classList.add("over");
    if (!done) for (const task of this.tasks.values()) if (task.state === "started") this.put(task, "waiting");
    this.stage = "over";
    if (this.tasks.size) this.tell();
    else this.element.hidden = true;
  }

  make(tasks) {
    const states = new Map([...this.tasks].map(([id, { state }]) => [id, state]));
    const titles = new Map(tasks.map(({ id, title }) => [id, title ?? id]));
    this.tasks.clear();
    this.list.replaceChildren();
    for (const { id, title, after, kept } of tasks) {
      const row = make("li", "task");
      const needs = (after ?? []).map((other) => titles.get(other) ?? other);
      const task = { id, row, title: title ?? id, needs, state: "waiting" };
      this.tasks.set(id, task);
      this.list.append(row);
      this.put(task, kept ? "kept" : states.get(id) === "done" ? "done" : "waiting");
    }
  }

  advance({ stage, state, task: id }) {
    this.element.hidden = false;
    if (stage !== "task") {
      this.stage = `${stage} ${state}`;
      return;
    }
    const task = this.tasks.get(id);
    if (task && state in STATES) this.put(task, state);
  }

  keep({ name, result }) {
    if (!name.startsWith("task ") || typeof result?.text !== "string") return;
    const id = name.slice(5);
    this.results.set(id, result.text);
    if (this.tasks.has(id)) this.put(this.tasks.get(id), this.tasks.get(id).state);
  }

  put(task, state) {
    task.state = state;
    task.row.dataset.state = state;
    const said = this.results.get(task.id);
    const title = [make("b", "", task.title), make("span", "how", STATES[state])];
    if (task.needs.length && state === "waiting") title.push(make("span", "needs", `after ${task.needs.join(", ")}`));
    if (said === undefined) {
      task.row.replaceChildren(...title);
    } else if (!task.row.querySelector("details")) {
      const summary = make("summary");
      summary.append(...title);
      const text = make("div", "text");
      render(text, said);
      const details = make("details");
      details.append(summary, text);
      task.row.replaceChildren(details);
    } else {
      task.row.querySelector("summary").replaceChildren(...title);
    }
  }

  tell() {
    const count = (state) => [...this.tasks.values()].filter((task) => task.state === state).length;
    const [done, kept, all] = [count("done"), count("kept"), this.tasks.size];
    const finished = `${done + kept} of ${all} tasks done${kept ? `, ${kept} kept from before` : ""}`;
    const words = { "": "", "plan started": "Making a plan", over: `Plan: ${finished}` };
    const told = this.stage === "answer started" ? `Writing the answer: ${finished}` : `Working: ${finished}`;
    this.head.textContent = words[this.stage] ?? told;
    this.element.hidden = !all && !this.head.textContent;
    this.element.style.setProperty("--share", all ? (done + kept) / all : 0);
  }
}
