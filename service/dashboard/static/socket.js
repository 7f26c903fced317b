// One WebSocket that reconnects by itself, and notices when the network is gone without a word.

const FIRST_DELAY_SECONDS = 0.25; // until the first attempt to reconnect; each failure doubles it
const LONGEST_DELAY_SECONDS = 15;
const TRY_LATER_SECONDS = 1; // added when the server asks for it
const SILENCE_SECONDS = 15; // without a frame, until the page sends a ping
const PONG_SECONDS = 10; // without a frame after the ping, until the page gives the socket up

// The codes with which the server closes a socket.
const CLOSED_AS_REFUSED = 1008;
const CLOSED_AS_TOO_BIG = 1009;
const CLOSED_AS_TRY_LATER = 1013;

export class ReconnectingSocket {
  /**
   * `address()` returns the URL of the next connection.
   * The handlers: `opening()`, `firstFrame()`, which returns a frame or null, `frame(frame)`, `tooBig()` and
   * `state(state, text)` for the display.
   */
  constructor(address, handlers) {
    this.address = address;
    this.handlers = handlers;
    this.failures = 0; // attempts since the last confirmed connection
    this.closed = false;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.reconnectTimer);
    this.handlers.state("connecting", this.failures ? "Reconnecting" : "Connecting");
    this.handlers.opening();
    const socket = new WebSocket(this.address());
    this.socket = socket;
    socket.onopen = () => {
      const first = socket === this.socket && this.handlers.firstFrame();
      if (first) this.send(first);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.watchSilence();
      this.handlers.frame(JSON.parse(data));
    };
    socket.onclose = ({ code }) => socket === this.socket && this.lost(code);
    this.watchSilence();
  }

  /** The server has greeted: the next failure counts as the first again. */
  confirm() {
    this.failures = 0;
    this.handlers.state("open", "Connected");
  }

  send(frame) {
    if (this.isOpen) this.socket.send(JSON.stringify(frame));
  }

  watchSilence() {
    clearTimeout(this.silenceTimer);
    this.silenceTimer = setTimeout(() => this.ping(), SILENCE_SECONDS * 1000);
  }

  ping() {
    clearTimeout(this.silenceTimer);
    this.send({ type: "ping" });
    this.silenceTimer = setTimeout(() => this.reconnect(), PONG_SECONDS * 1000);
  }

  /** The page is visible or online again: do not wait for the next attempt, and do not trust the socket. */
  check() {
    if (this.closed) return;
    if (this.socket === null) this.connect();
    else this.ping();
  }

  /** Give the current socket up and open another one. */
  reconnect() {
    this.lost(0);
  }

  /** Close the connection because a person wants that; `reopen` undoes it. */
  disconnect() {
    this.close();
    this.handlers.state("off", "Disconnected");
  }

  reopen() {
    this.closed = false;
    this.failures = 0;
    this.connect();
  }

  close() {
    this.closed = true;
    clearTimeout(this.reconnectTimer);
    this.lost(0);
  }

  lost(code) {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.silenceTimer);
    socket?.close();
    if (this.closed) return;
    if (code === CLOSED_AS_REFUSED) {
      this.handlers.state("lost", "Refused");
      return;
    }
    if (code === CLOSED_AS_TOO_BIG) this.handlers.tooBig();
    this.handlers.state("lost", navigator.onLine ? "Disconnected, reconnecting" : "Offline");
    const longest = Math.min(FIRST_DELAY_SECONDS * 2 ** this.failures++, LONGEST_DELAY_SECONDS);
    const delay = longest * (0.5 + Math.random() / 2) + (code === CLOSED_AS_TRY_LATER ? TRY_LATER_SECONDS : 0);
    this.reconnectTimer = setTimeout(() => this.connect(), delay * 1000);
  }
}
