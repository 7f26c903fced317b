// The plan of an agent that makes one (the resolver): its tasks, their order, and the state of each.

import { element } from "./dom.js";
import { render } from "./markdown.js";

const STATE_LABELS = { waiting: "waiting", started: "running", done: "done", failed: "failed", kept: "kept from before" };
const TASK_STEP_PREFIX = "task "; // of the name of a step that holds a task's result

export class Plan {
  constructor() {
    this.element = element("section", "plan");
    this.element.hidden = true;
    this.heading = element("p", "stage");
    this.list = element("ol", "tasks");
    this.element.append(this.heading, this.list);
    this.tasks = new Map(); // by id: { id, row, title, needs, state }
    this.results = new Map(); // by task id; a retry keeps them
    this.stage = "";
  }

  /** Apply an event; returns whether it was about the plan. */
  apply(event, data) {
    if (event === "plan" && Array.isArray(data?.tasks)) this.setTasks(data.tasks);
    else if (event === "progress" && data?.stage === "plan") this.advance(data);
    else if (event === "progress" && this.tasks.size && ["task", "answer"].includes(data?.stage)) this.advance(data);
    else if (event === "step" && this.stage && typeof data?.name === "string") this.setResult(data);
    else return false;
    this.showStage();
    return true;
  }

  /** A new attempt announces finished tasks again; running and failed ones start over. */
  startAttempt() {
    this.stage = "";
    for (const task of this.tasks.values()) if (["started", "failed"].includes(task.state)) this.setState(task, "waiting");
    this.element.classList.remove("over");
    if (this.tasks.size) this.showStage();
  }

  /** The message is over. */
  end(completed) {
    this.element.classList.add("over");
    if (!completed) for (const task of this.tasks.values()) if (task.state === "started") this.setState(task, "waiting");
    this.stage = "over";
    if (this.tasks.size) this.showStage();
    else this.element.hidden = true;
  }

  setTasks(tasks) {
    const states = new Map([...this.tasks].map(([id, { state }]) => [id, state]));
    const titles = new Map(tasks.map(({ id, title }) => [id, title ?? id]));
    this.tasks.clear();
    this.list.replaceChildren();
    for (const { id, title, after, kept } of tasks) {
      const needs = (after ?? []).map((other) => titles.get(other) ?? other);
      const task = { id, row: element("li", "task"), title: title ?? id, needs, state: "waiting" };
      this.tasks.set(id, task);
      this.list.append(task.row);
      this.setState(task, kept ? "kept" : states.get(id) === "done" ? "done" : "waiting");
    }
  }

  advance({ stage, state, task: id }) {
    this.element.hidden = false;
    if (stage !== "task") {
      this.stage = `${stage} ${state}`;
      return;
    }
    const task = this.tasks.get(id);
    if (task && state in STATE_LABELS) this.setState(task, state);
  }

  setResult({ name, result }) {
    if (!name.startsWith(TASK_STEP_PREFIX) || typeof result?.text !== "string") return;
    const id = name.slice(TASK_STEP_PREFIX.length);
    this.results.set(id, result.text);
    if (this.tasks.has(id)) this.setState(this.tasks.get(id), this.tasks.get(id).state);
  }

  setState(task, state) {
    task.state = state;
    task.row.dataset.state = state;
    const result = this.results.get(task.id);
    const line = [element("b", "", task.title), element("span", "task-state", STATE_LABELS[state])];
    if (task.needs.length && state === "waiting") line.push(element("span", "needs", `after ${task.needs.join(", ")}`));
    if (result === undefined) {
      task.row.replaceChildren(...line);
    } else if (!task.row.querySelector("details")) {
      const summary = element("summary");
      summary.append(...line);
      const text = element("div", "text");
      render(text, result);
      const details = element("details");
      details.append(summary, text);
      task.row.replaceChildren(details);
    } else {
      task.row.querySelector("summary").replaceChildren(...line); // an open result stays open
    }
  }

  showStage() {
    const count = (state) => [...this.tasks.values()].filter((task) => task.state === state).length;
    const [done, kept, all] = [count("done"), count("kept"), this.tasks.size];
    const finished = `${done + kept} of ${all} tasks done${kept ? `, ${kept} kept from before` : ""}`;
    const headings = {
      "": "",
      "plan started": "Making a plan",
      "answer started": `Writing the answer: ${finished}`,
      over: `Plan: ${finished}`,
    };
    this.heading.textContent = headings[this.stage] ?? `Working: ${finished}`;
    this.element.hidden = !all && !this.heading.textContent;
    this.element.style.setProperty("--share", all ? (done + kept) / all : 0);
  }
}
