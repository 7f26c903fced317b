// The form for a question that an agent asks (the event `parked`). It sends the answer to POST /messages/{id}/input.

import { asText, element } from "./dom.js";
import { serviceUrl } from "./storage.js";

let formCount = 0;

export class QuestionForm {
  constructor() {
    this.element = element("form", "question");
    this.element.hidden = true;
    this.question = element("label");
    this.field = element("input");
    this.field.id = `answer-${(formCount += 1)}`;
    this.field.autocomplete = "off";
    this.question.htmlFor = this.field.id;
    this.button = element("button", "", "Answer");
    this.problem = element("p", "problem");
    const row = element("div");
    row.append(this.field, this.button);
    this.element.append(this.question, row, this.problem);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
  }

  open(messageId, { question, name }) {
    this.messageId = messageId;
    this.name = name;
    this.question.textContent = asText(question ?? "The agent is waiting for your answer.");
    this.problem.textContent = "";
    this.field.value = "";
    this.button.disabled = false;
    this.element.hidden = false;
  }

  /** The event `input` or `started` shows that the question was answered. */
  close() {
    this.element.hidden = true;
  }

  async submit() {
    if (!this.field.value.trim()) {
      this.field.focus();
      return;
    }
    this.button.disabled = true;
    this.problem.textContent = "";
    try {
      const response = await fetch(new URL(`messages/${this.messageId}/input`, serviceUrl), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: this.field.value, ...(this.name && { name: this.name }) }),
      });
      if (!response.ok) throw new Error((await response.json()).detail);
    } catch (error) {
      this.problem.textContent = `Not sent: ${error.message}`;
      this.button.disabled = false;
    }
  }
}
