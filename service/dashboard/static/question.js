// What an agent asks the person (the event `parked`), and the field for the answer: POST /messages/{id}/input.

import { make, shown } from "./make.js";

const base = new URL("..", import.meta.url);
let count = 0;

export class Question {
  constructor() {
    this.element = make("form", "question");
    this.element.hidden = true;
    this.text = make("label");
    this.field = make("input");
    this.field.id = `answer-${(count += 1)}`;
    this.field.autocomplete = "off";
    this.text.htmlFor = this.field.id;
    this.send = make("button", "", "Answer");
    this.problem = make("p", "problem");
    const row = make("div");
    row.append(this.field, this.send);
    this.element.append(this.text, row, this.problem);
    this.element.addEventListener("submit", (submit) => {
      submit.preventDefault();
      this.answer();
    });
  }

  ask(message, { question, name }) {
    this.message = message;
    this.name = name;
    this.text.textContent = question === null || question === undefined ? "The agent waits for your answer." : shown(question);
    this.problem.textContent = "";
    this.field.value = "";
    this.send.disabled = false;
    this.element.hidden = false;
  }

  close() {
    this.element.hidden = true;
  }

  async answer() {
    if (!this.field.value.trim()) return this.field.focus();
    this.send.disabled = true;
    this.problem.textContent = "";
    try {
      const answer = await fetch(new URL(`messages/${this.message}/input`, base), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: this.field.value, ...(this.name && { name: this.name }) }),
      });
      if (!answer.ok) throw new Error((await answer.json()).detail);
    } catch (error) {
      this.problem.textContent = `Not sent: ${error.message}`;
      this.send.disabled = false; // else the event `input`, or `started`, closes it
    }
    return undefined;
  }
}
