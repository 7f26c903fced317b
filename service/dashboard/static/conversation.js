// A thread on the page: its exchanges, and the frames of /ws/chat that change them. The protocol is in docs/http.md.
//
// This is an example of a client that loses nothing. It keeps two things: the id of the last event that it received,
// and each input until the server has acknowledged it.

import { firstFrame } from "./access.js";
import { asText, element, shorten } from "./dom.js";
import { Exchange } from "./exchange.js";
import { ReconnectingSocket } from "./socket.js";
import { PendingInputs, serviceUrl } from "./storage.js";

const MAX_ANNOUNCED_CHARS = 500;

export class Conversation {
  /** The view is the page: its elements, and what it shows beside the conversation. */
  constructor(thread, view) {
    this.thread = thread;
    this.view = view;
    this.pending = new PendingInputs(thread);
    this.log = null; // names the log that the ids of events belong to; a deleted thread's next log has another name
    this.socket = new ReconnectingSocket(() => this.address(), {
      opening: () => {
        this.inputsSent = false;
        this.unanswered = []; // keys of the inputs sent on this connection, which the server answers in their order
      },
      firstFrame,
      frame: (frame) => this.receive(frame),
      tooBig: () => this.refuse(this.largestUnanswered(), "It is too long."),
      state: (state, text) => view.showConnection(state, text),
    });
    this.restart();
    this.socket.connect();
  }

  address() {
    const address = new URL("ws/chat", serviceUrl);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.search = new URLSearchParams({ thread_id: this.thread, last_event_id: this.lastId, log: this.log ?? "" });
    return address;
  }

  /** Show the thread from the start of its log. */
  restart() {
    this.lastId = 0; // of the last event received
    this.historyEnd = 0; // events up to this id were there before the page connected: they are not announced
    this.exchanges = new Map(); // by message_id
    this.unacknowledged = new Map(); // exchanges by the key of their input
    this.toPaint = new Set();
    this.current = null; // the exchange that has the turn, or had it last
    this.view.exchanges.replaceChildren();
    this.view.empty.hidden = true;
    for (const [key, input] of this.pending.entries()) this.showInput(key, input);
  }

  close() {
    this.socket.close();
  }

  // Inputs

  submit(input) {
    // randomUUID exists only on https and localhost.
    const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    this.showInput(key, input); // first: it throws for an input that is nested too deeply
    this.pending.add(key, input);
    this.send(key, input);
    this.view.paintSoon(this);
    this.view.scrollToEnd();
  }

  /** The key comes early, so that the server finds it in an input that it cannot read. */
  send(key, input) {
    if (!this.socket.isOpen) return;
    this.unanswered.push(key);
    this.socket.send({ type: "user_input", key, ...input });
  }

  answered(key) {
    this.unanswered = this.unanswered.filter((other) => other !== key);
  }

  largestUnanswered() {
    const size = (key) => JSON.stringify(this.pending.get(key) ?? "").length;
    return this.unanswered.reduce((largest, key) => (size(key) > size(largest) ? key : largest), this.unanswered[0]);
  }

  showInput(key, input) {
    const exchange = new Exchange(input.message);
    this.unacknowledged.set(key, exchange);
    if (!this.socket.isOpen) exchange.setState("sending", "Will be sent when connected");
    this.view.exchanges.append(exchange.element);
    this.view.empty.hidden = true;
  }

  refuse(key, detail) {
    if (!this.pending.remove(key)) {
      this.view.showNotice(detail);
      return;
    }
    const exchange = this.unacknowledged.get(key);
    this.unacknowledged.delete(key);
    exchange?.setState("refused", `Not sent: ${detail}`);
  }

  // Frames

  receive(frame) {
    if (frame.id !== undefined) this.receiveEvent(frame);
    else if (frame.type === "status") this.receiveStatus(frame);
    else if (frame.type === "error") this.receiveError(frame);
    this.view.paintSoon(this);
  }

  receiveStatus(frame) {
    switch (frame.status) {
      case "open":
        this.opened(frame);
        break;
      case "accepted":
        this.accepted(frame);
        break;
      case "deleted":
        this.log = null;
        this.restart();
        this.view.showNotice("This thread was deleted.");
        break;
      case "gap":
        this.missed(frame);
        break;
      default: // cancelling, answered: the events that follow show it
    }
  }

  missed({ after, next }) {
    if (next > after) {
      this.view.exchanges.append(element("li", "gap", "Older messages were deleted."));
      return;
    }
    const { historyEnd } = this;
    this.restart(); // the thread was deleted and begun again: all its events follow
    this.historyEnd = historyEnd;
  }

  opened({ log, last }) {
    this.socket.confirm();
    this.log = log ?? this.log;
    this.historyEnd = last;
    this.view.empty.hidden = last > 0 || this.pending.size > 0;
    // A connection is greeted a second time when its thread begins; the inputs were sent the first time.
    if (!this.inputsSent) for (const [key, input] of this.pending.entries()) this.send(key, input);
    this.inputsSent = true;
  }

  accepted({ key, message_id, agent, queue_position }) {
    this.answered(key);
    this.pending.remove(key);
    const sent = this.unacknowledged.get(key);
    this.unacknowledged.delete(key);
    if (sent && this.exchanges.has(message_id)) sent.element.remove(); // its events arrived first
    else if (sent) this.track(message_id, sent);
    const exchange = this.exchanges.get(message_id);
    if (!exchange) return;
    if (agent && this.working && exchange !== this.current) this.current.addAside(exchange);
    if (["sending", "waiting"].includes(exchange.state)) {
      exchange.setState("waiting", queue_position > 0 ? `Waiting, ${queue_position} ahead` : "Waiting");
    }
  }

  receiveError({ detail, key, message_id, retry_after }) {
    if (message_id) {
      this.exchanges.get(message_id)?.allowCancel();
      this.view.showNotice(detail);
    } else if (retry_after === undefined) {
      const refused = key ?? this.unanswered[0]; // without a key, it is about the oldest unanswered input
      this.answered(refused);
      this.refuse(refused, detail);
    } else if (key !== undefined) { // without a key, the server closes the socket
      this.answered(key);
      const input = this.pending.get(key);
      this.unacknowledged.get(key)?.setState("sending", `Sending: ${detail}`);
      if (input) setTimeout(() => this.pending.get(key) && this.send(key, input), retry_after * 1000);
    }
  }

  receiveEvent({ id, message_id, event, data }) {
    this.lastId = id;
    this.view.log(`[AGENT STREAM] ${id} ${message_id} ${event} ${JSON.stringify(data)}`);
    const exchange = this.exchanges.get(message_id) ?? this.track(message_id, new Exchange(data?.message ?? ""));
    this.place(exchange);
    exchange.apply(event, data);
    if (event === "started") this.started(exchange);
    this.toPaint.add(exchange);
    if (id > this.historyEnd && exchange.isOver) {
      this.view.announce.textContent = shorten(event === "done" ? asText(data.result) : exchange.stateText, MAX_ANNOUNCED_CHARS);
    }
  }

  // Exchanges

  track(message_id, exchange) {
    this.exchanges.set(message_id, exchange);
    this.view.empty.hidden = true;
    exchange.accepted(message_id, () => this.socket.send({ type: "cancel", message_id }));
    return exchange;
  }

  /** Exchanges stand in the order of the log; the ones without an event yet stay at the end. */
  place(exchange) {
    if (exchange.element.dataset.placed !== undefined || exchange.isAside) return;
    exchange.element.dataset.placed = "";
    const firstWithoutEvent = this.view.exchanges.querySelector(":scope > .exchange:not([data-placed])");
    this.view.exchanges.insertBefore(exchange.element, firstWithoutEvent);
  }

  /** As GET /threads/{thread_id} tells it. */
  get phase() {
    const exchanges = [...this.exchanges.values(), ...this.unacknowledged.values()];
    if (exchanges.some(({ isOver, state }) => !isOver && state !== "refused")) return "executing";
    return exchanges.some(({ state }) => state === "done") ? "refinement_ready" : "idle";
  }

  /** The exchange that an agent works on, or null. */
  get working() {
    return this.current && !this.current.isOver ? this.current : null;
  }

  /**
   * A thread has one turn at a time, so an exchange that starts while another one works is an aside of that one. The
   * exception: the working one is itself answered by an agent for asides, which was asked while the thread was idle.
   */
  started(exchange) {
    if (exchange.isAside || exchange === this.current) return;
    if (this.working && !this.view.answersAsides(this.current.agentName)) this.current.addAside(exchange);
    else this.current = exchange;
  }
}
