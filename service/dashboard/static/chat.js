// A chat with agents over one WebSocket. The protocol is in docs/http.md; this is an example of a client that loses
// nothing: it keeps the id of the last event, and every input until it is acknowledged.

import { make, shown } from "./make.js";
import { Turn } from "./turn.js";

const BACKOFF = [0.25, 15]; // seconds until the first try to reconnect, and the most it grows to
const SILENCE = [15, 10]; // seconds without a frame until we ask, and then until we give the socket up
const REFUSED = 1008, TOO_BIG = 1009, TRY_LATER = 1013; // codes with which the server closes

/** Where this page is served: at /chat, beside /ws/chat. */
export const base = new URL("..", import.meta.url);

// localStorage may be full or forbidden; then this tab's memory has to do.
export const stored = {
  get: (name, otherwise) => {
    try {
      return JSON.parse(localStorage.getItem(`treadle.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set: (name, value) => {
    try {
      localStorage.setItem(`treadle.${name}`, JSON.stringify(value));
    } catch { /* see above */ }
  },
};

/** A thread: its turns, and the socket that brings them. The view is the page: what it shows, and where. */
export class Chat {
  constructor(thread, view) {
    this.thread = thread;
    this.view = view;
    this.pending = new Map(Object.entries(stored.get(`pending.${thread}`, {}))); // inputs not acknowledged, by key
    this.failures = 0;
    this.log = null; // which log the ids are of
    this.closed = false;
    this.clear();
    for (const [key, input] of this.pending) this.add(key, input);
    this.connect();
  }

  clear() {
    this.last = 0; // the id of the last event
    this.live = 0; // events up to here are history
    this.turns = new Map(); // by message_id
    this.sending = new Map(); // turns by their input's key
    this.dirty = new Set();
    this.current = null; // the turn that is at work, or was last
    this.view.turns.replaceChildren();
    this.view.empty.hidden = true;
  }

  /** All over again, from the log's start. */
  restart() {
    this.clear();
    for (const [key, input] of this.pending) this.add(key, input);
  }

  connect() {
    clearTimeout(this.timer);
    const address = new URL("ws/chat", base);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.search = new URLSearchParams({ thread_id: this.thread, last_event_id: this.last });
    this.view.tell("connecting", this.failures ? "Reconnecting" : "Connecting");
    const socket = new WebSocket(address);
    this.socket = socket;
    this.greeted = false;
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.listen();
      this.take(JSON.parse(data));
    };
    socket.onclose = ({ code }) => socket === this.socket && this.lost(code);
    this.listen();
  }

  /** A connection can die without a word: ask where nothing comes, and give it up where no answer does. */
  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.ask(), SILENCE[0] * 1000);
  }

  ask() {
    clearTimeout(this.silence);
    this.send({ type: "ping" });
    this.silence = setTimeout(() => this.lost(0), SILENCE[1] * 1000);
  }

  lost(code) {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.silence);
    socket?.close();
    if (this.closed) return;
    if (code === REFUSED) return this.view.tell("lost", "Refused");
    if (code === TOO_BIG) this.refuse([...this.pending.keys()].pop(), "This is too long.");
    const most = Math.min(BACKOFF[0] * 2 ** this.failures++, BACKOFF[1]);
    const seconds = (code === TRY_LATER ? 1 : 0) + most * (0.5 + Math.random() / 2);
    this.view.tell("lost", navigator.onLine ? "Disconnected, trying again" : "Offline");
    this.timer = setTimeout(() => this.connect(), seconds * 1000);
  }

  /** Somebody looks, or the network is back: do not wait for the next try, nor trust the socket. */
  hurry() {
    if (this.closed) return;
    if (this.socket === null) this.connect();
    else this.ask();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.lost(0);
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  say(input) {
    const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // the former only on https and localhost
    this.pending.set(key, { ...input, key });
    this.keep();
    this.add(key, input);
    this.send({ type: "user_input", ...input, key });
    this.view.toEnd();
  }

  keep() {
    stored.set(`pending.${this.thread}`, this.pending.size ? Object.fromEntries(this.pending) : null);
  }

  add(key, input) {
    const turn = new Turn(input.message);
    this.sending.set(key, turn);
    if (this.socket?.readyState !== WebSocket.OPEN) turn.become("sending", "Will be sent when connected");
    this.view.turns.append(turn.element);
    this.view.empty.hidden = true;
  }

  refuse(key, detail) {
    if (!this.pending.has(key)) return this.view.notice(detail);
    this.pending.delete(key);
    this.keep();
    const turn = this.sending.get(key);
    this.sending.delete(key);
    turn?.become("refused", `Not sent: ${detail}`);
    return undefined;
  }

  take(frame) {
    if (frame.id !== undefined) this.happened(frame);
    else if (frame.type === "status") this.answered(frame);
    else if (frame.type === "error") this.failed(frame);
    this.view.paintSoon(this);
  }

  answered({ status, key, message_id, ...frame }) {
    switch (status) {
      case "open":
        this.failures = 0;
        this.view.tell("open", "Connected");
        if (this.log !== null && frame.log !== undefined && frame.log !== this.log) {
          this.restart(); // another log under the same name
          if (frame.after > 0) return this.lost(0);
        }
        this.log = frame.log ?? this.log;
        this.live = frame.last;
        this.view.empty.hidden = frame.last > 0 || this.pending.size > 0;
        if (!this.greeted) for (const [own, input] of this.pending) this.send({ type: "user_input", ...input, key: own });
        this.greeted = true; // the second time a thread has begun
        return undefined;
      case "accepted": {
        this.pending.delete(key);
        this.keep();
        const turn = this.sending.get(key);
        this.sending.delete(key);
        if (turn && this.turns.has(message_id)) turn.element.remove(); // its events were faster
        else if (turn) this.turns.set(message_id, this.cancellable(message_id, turn));
        const waiting = this.turns.get(message_id);
        if (frame.agent && waiting && this.working && waiting !== this.current) this.current.takeAside(waiting);
        if (waiting && ["sending", "waiting"].includes(waiting.element.dataset.state)) {
          const before = frame.queue_position;
          waiting.become("waiting", before > 0 ? `Waiting, ${before} before it` : "Waiting");
        }
        return undefined;
      }
      case "deleted":
        this.log = null;
        this.restart();
        return this.view.notice("This thread was deleted.");
      case "gap":
        this.view.turns.append(make("li", "gap", "What was here is too old: it was deleted."));
        return undefined;
      default:
        return undefined;
    }
  }

  failed({ detail, key, message_id, retry_after }) {
    if (message_id) {
      const turn = this.turns.get(message_id);
      if (turn) turn.cancel.disabled = false;
      return this.view.notice(detail);
    }
    if (retry_after === undefined) return this.refuse(key, detail);
    const input = this.pending.get(key);
    this.sending.get(key)?.become("sending", `Sending: ${detail}`);
    if (input) setTimeout(() => this.pending.has(key) && this.send({ type: "user_input", ...input, key }), retry_after * 1000);
    return undefined;
  }

  happened({ id, message_id, event, data }) {
    this.last = id;
    let turn = this.turns.get(message_id);
    if (!turn) {
      turn = this.cancellable(message_id, new Turn(data?.message ?? ""));
      this.turns.set(message_id, turn);
      this.view.empty.hidden = true;
    }
    if (turn.element.dataset.placed === undefined && !turn.isAside) {
      // In the order of the log; what is not in it yet stays at the end.
      turn.element.dataset.placed = "";
      this.view.turns.insertBefore(turn.element, this.view.turns.querySelector(":scope > .turn:not([data-placed])"));
    }
    turn.see(event, data);
    if (event === "started") this.begun(turn);
    this.dirty.add(turn);
    if (id > this.live && turn.over) {
      const said = event === "done" ? shown(data.result) : turn.state.textContent;
      this.view.announce.textContent = said.length > 500 ? `${said.slice(0, 500)} ...` : said;
    }
  }

  /** The turn at work, or null. */
  get working() {
    return this.current && !this.current.over ? this.current : null;
  }

  /** One turn at a time: what begins while another is at work is an aside of that one. (Unless the one at work is itself
   * of an agent for asides, which was asked while nothing else was under way.) */
  begun(turn) {
    if (turn.isAside || turn === this.current) return;
    if (this.working && !this.view.answersMeanwhile(this.current.agent.textContent)) this.current.takeAside(turn);
    else this.current = turn;
  }

  cancellable(message_id, turn) {
    turn.element.dataset.message = message_id;
    turn.cancel.addEventListener("click", () => {
      turn.cancel.disabled = true;
      this.send({ type: "cancel", message_id });
    });
    return turn;
  }
}
