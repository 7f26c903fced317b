// Run by tests/clients/test_typescript.py: argv has the address of the client's module, of a proxy of the API that refuses
// connections until this program has printed "refused", a key, and the bytes that the API takes.

import assert from "node:assert/strict";

const [, , module, url, key, maxBytes] = process.argv;
const addresses = [];
const Socket = globalThis.WebSocket;
globalThis.WebSocket = class extends Socket {
  constructor(address) {
    super(address);
    addresses.push(String(address));
    this.addEventListener("error", () => addresses.length === 2 && console.log("refused"));
  }
};
const { Treadle } = await import(`${module}/index.js`);
const treadle = new Treadle({ url, key });

// It waits for a server that refuses connections
const chat = treadle.chat("t", { agent: "echo" });
const first = await chat.send("one two");
assert.equal((await treadle.wait(first)).state, "completed"); // so that its events come first
assert.ok(addresses.length > 2);
assert.ok(addresses.every((address) => !address.includes(key)));

// Each refusal has its status, and an input that is too large does not hold up the others
await assert.rejects(chat.send("x", { agent: "none" }), { status: 422 });
const [large, second] = await Promise.allSettled([chat.send("x".repeat(Number(maxBytes) * 5)), chat.send("three")]);
assert.deepEqual([large.status, large.reason.status, second.status], ["rejected", 413, "fulfilled"]);

// Another chat goes on after the last event that the reader received
assert.equal((await treadle.wait(second.value)).state, "completed");
for await (const event of chat) if (event.type === "done") break;
assert.deepEqual([chat.lastId, typeof chat.log], [5, "number"]);
chat.close();
const later = treadle.chat("t", { lastId: chat.lastId, log: chat.log });
const story = [];
for await (const event of later) {
  story.push([event.messageId, event.type]);
  if (event.type === "done") break;
}
assert.deepEqual(story, ["queued", "started", "chunk", "done"].map((type) => [second.value, type]));
assert.notEqual(first, second.value);

// Every reader of a closed chat ends, and every reader of one that failed hears of it
const readers = [1, 2].map(() => later[Symbol.asyncIterator]().next());
later.close();
assert.deepEqual((await Promise.all(readers)).map(({ done }) => done), [true, true]);
const read = (one) => one[Symbol.asyncIterator]().next();
await assert.rejects(read(new Treadle({ url, key: "wrong" }).chat("t")), { status: 401 });
await assert.rejects(read(new Treadle({ url: "http://[", key }).chat("t")), { name: "SyntaxError" });

// Events that do not fit the buffer come from the next socket
const LAST = 10_005;
let sockets = 0;
globalThis.WebSocket = class {
  constructor(address) {
    sockets++;
    const say = (frame) => this.onmessage({ data: JSON.stringify(frame) });
    setTimeout(() => {
      this.onopen();
      say({ type: "status", status: "open", log: 1 });
      const after = Number(new URL(address).searchParams.get("last_event_id"));
      for (let id = after + 1; id <= LAST; id++) say({ type: "agent_output", id, message_id: "m", event: "chunk", data: {} });
    });
  }
  close() {
    setTimeout(() => this.onclose({ code: 1005 }));
  }
};
const full = new Treadle({ url }).chat("t");
let told = 0;
for await (const { id } of full) {
  assert.equal(id, String(++told));
  if (told === LAST) break;
}
full.close();
assert.equal(sockets, 2);

// A socket that does not open is given up for the next one
const OPEN_MILLISECONDS = 10_000;
const wait = globalThis.setTimeout;
globalThis.setTimeout = (call, milliseconds) => wait(call, milliseconds === OPEN_MILLISECONDS ? 0 : milliseconds);
const states = [];
globalThis.WebSocket = class {
  #number = states.push("connecting") - 1;
  constructor() {
    if (this.#number === 0) return;
    wait(() => {
      states[this.#number] = "open";
      this.onopen();
      this.onmessage({ data: JSON.stringify({ type: "agent_output", id: 1, message_id: "m", event: "done", data: {} }) });
    });
  }
  close() {
    states[this.#number] = "closed";
  }
};
const patient = new Treadle({ url }).chat("t");
assert.equal((await read(patient)).value.type, "done");
assert.deepEqual([states[0], states.at(-1)], ["closed", "open"]);
patient.close();
console.log("done");
