// Run by tests/clients/test_typescript.py: argv has the address of the client's module, of the API, and of a proxy of it
// whose connections the test cuts.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";

const [, , module, url, proxy] = process.argv;
const { Treadle, Worker, ChildFailed, Rejected, RetryAfter, ApiError, MessageEnded } = await import(`${module}/index.js`);
const { createHooks, reduce } = await import(`${module}/react.js`);
const treadle = new Treadle({ url });

// Messages and threads
const first = await treadle.submit("one two", { agent: "echo", thread_id: "a b?", metadata: { delay_ms: 1 } });
const events = [];
for await (const event of treadle.stream(first.message_id)) if (event.id) events.push(event);
assert.deepEqual(events.map((event) => event.type), ["queued", "started", "chunk", "chunk", "done"]);
assert.deepEqual(events.map((event) => event.id), ["1", "2", "3", "4", "5"]);
for await (const _ of treadle.stream(first.message_id, { after: 5 })) assert.fail("nothing is left");
assert.equal(await treadle.run("again", { agent: "echo", thread_id: "a b?" }), "again");
assert.equal((await treadle.thread("a b?")).states.completed, 2);
const page = await treadle.threadMessages("a b?", { limit: 1 });
assert.equal((await treadle.threadMessages("a b?", { cursor: page.nextCursor })).items[0].result, "again");
assert.equal((await treadle.threads()).items.length, 1);
assert.deepEqual(await treadle.threadUsage("a b?"), {});
const many = await treadle.submitMany([{ message: "x" }, { message: "y", priority: "high" }]);
for (const { message_id } of many) assert.equal((await treadle.wait(message_id)).state, "completed");
const later = await treadle.submit("x", { delay_seconds: 3600 });
assert.equal((await treadle.change(later.message_id, { metadata: { n: 1 } })).metadata.n, 1);
assert.equal((await treadle.explain(later.message_id))[0].cause, "delay");
assert.equal((await treadle.messages({ state: "open", limit: 1 })).items[0].message_id, later.message_id);
assert.deepEqual((await treadle.cancelMany({ agent: "echo" })).matched, 1);
assert.equal((await treadle.redriveMany()).matched, 0);
assert.equal((await treadle.inspect(first.message_id)).attempts[0].outcome, "completed");
assert.ok((await treadle.stats({ by: "queue" })).steps.length >= 0);
assert.deepEqual(await treadle.instances({ agent: "echo" }), []);
await treadle.dropInstance("echo", "a b?");
assert.equal((await treadle.changeThread("a b?", { customer: "7" })).metadata.customer, "7");
assert.equal((await treadle.threads({ q: "customer" })).items[0].thread_id, "a b?");
await treadle.cancel(later.message_id);
await assert.rejects(treadle.cancel(later.message_id), (error) => error instanceof ApiError && error.status === 409);
const failing = { agent: "echo", max_attempts: 1, metadata: { fail_times: 1 } };
const failed = await treadle.run("x", failing).catch((error) => error);
assert.ok(failed instanceof MessageEnded && failed.state === "failed");
assert.equal((await treadle.deadLetters("default")).items[0].message_id, failed.messageId);
await treadle.redrive(failed.messageId);
assert.equal((await treadle.wait(failed.messageId)).state, "completed");
await assert.rejects(treadle.submit("x", { agent: "none" }), { status: 422 });
await assert.rejects(treadle.status("00000000-0000-7000-8000-000000000000"), { status: 404 });
assert.equal((await treadle.overview()).total_queued, 0);
assert.ok((await treadle.queues()).some((queue) => queue.name === "default"));
assert.equal((await treadle.workers()).length, 1);
assert.ok((await treadle.health()).status);
await treadle.deleteThread("a b?");

// Topics
await treadle.declareTopic("t");
await treadle.publish("t", { value: { n: 1 }, key: "k" }, { value: { n: 2 } });
const values = [];
for await (const record of treadle.streamTopic("t", { from: "earliest" })) {
  values.push(record.value.n);
  if (values.length === 2) break;
}
assert.deepEqual(values, [1, 2]);
assert.equal((await treadle.records("t", { offset: 1 })).records[0].value.n, 2);
assert.equal((await treadle.subscribe("s", { topics: "t", agent: "echo" })).lag, 0);
assert.equal((await treadle.topics())[0].topic, "t");

// A remote worker
const runs = [];
const lines = [];
const agents = {
  shout: async (context, text) => {
    await context.emit("A");
    await context.event("note", { attempt: context.attempt });
    await context.emit("B");
    context.usage({ tokens: 1 });
    const paid = await context.step("pay", () => runs.push(text));
    if (context.attempt === 1) throw new RetryAfter(0, "once more");
    return { text, paid, thread: context.threadId };
  },
  refuse: async () => {
    throw new Rejected("never");
  },
  hang: {
    timeout_seconds: 600,
    run: (context) => new Promise((_, reject) => context.signal.addEventListener("abort", () => reject(new Error("ended")))),
  },
};
agents.relay = async (context, text) => {
  const past = (await context.history({ limit: 1 })).map((exchange) => exchange.result);
  const first = await context.step("order", () => context.send(`${text} 1`, { agent: "echo", name: "first" }));
  const record = await context.publish("told", { text }, { key: "k" });
  if (context.attempt === 1) throw new RetryAfter(0);
  const said = await context.input({ b: 1, a: [text] });
  const sent = await context.send(`${text} ${said}`, { agent: "echo" });
  return { past, said, record, sent: [first, sent] };
};
agents.gathers = async (context, text) => {
  const sent = [await context.send(text, { agent: "echo" }), await context.send("x", { agent: "refuse" })];
  const [echoed, refused] = await context.gather(sent, { settled: true });
  await assert.rejects(context.gather(["00000000-0000-7000-8000-000000000000", hanging]), /what send returned/);
  if (text === "fail") await context.gather(sent);
  return { echoed, refused: [refused instanceof ChildFailed, refused.state, refused.error], attempt: context.attempt };
};
agents.counts = {
  client_state: ["unit"],
  run: async ({ memory }) => {
    memory.asked = (memory.asked ?? 0) + 1;
    return memory;
  },
};
agents["waits for its turn"] = async (context, text) => context.gather([await context.send(text, { thread_id: context.threadId })]);
await treadle.declareTopic("told");
const worker = new Worker(agents, { url, concurrency: 5, log: (line) => lines.push(line) });
const working = worker.run();
await worker.registered;
const shouted = await treadle.submit("hey", { agent: "shout", thread_id: "w" });
const story = [];
for await (const event of treadle.stream(shouted.message_id)) if (event.id) story.push(event.type);
const attempt = ["started", "chunk", "note", "chunk"];
assert.deepEqual(story, ["queued", ...attempt, "step", "retry", ...attempt, "done"]);
const status = await treadle.status(shouted.message_id);
assert.deepEqual(status.result, { text: "hey", paid: 1, thread: "w" });
assert.deepEqual([status.usage, runs], [{ tokens: 2 }, ["hey"]]);
await treadle.run("before", { agent: "echo", thread_id: "r" });
const relayed = await treadle.submit("go", { agent: "relay", thread_id: "r" });
for await (const event of treadle.stream(relayed.message_id)) {
  if (event.type === "parked" && event.data.question) await treadle.answer(relayed.message_id, "yes", event.data.name);
}
const { past, said, record, sent } = (await treadle.status(relayed.message_id)).result;
assert.deepEqual([past, said], [["before"], "yes"]);
for (const [id, text] of [[sent[0], "go 1"], [sent[1], "go yes"]]) assert.equal((await treadle.wait(id)).user_message, text);
assert.equal((await treadle.messages({ parent: relayed.message_id })).items.length, 2);
for await (const one of treadle.streamTopic("told", { from: "earliest" })) {
  assert.deepEqual([one.record_id, one.value], [record, { text: "go" }]);
  break;
}
const refused = await treadle.run("x", { agent: "refuse" }).catch((error) => error);
const hanging = (await treadle.submit("x", { agent: "hang" })).message_id;
assert.deepEqual(await treadle.run("go", { agent: "gathers" }), { echoed: "go", refused: [true, "failed", "never"], attempt: 2 });
const unmet = await treadle.run("fail", { agent: "gathers" }).catch((error) => error);
assert.match(unmet.message, /is failed: never/);
const asked = { agent: "counts", thread_id: "m" };
for (const count of [1, 2]) assert.deepEqual(await treadle.run("x", asked), { asked: count });
const told = await treadle.run("x", { ...asked, metadata: { agui: { state: { unit: "C", asked: 70 } } } });
assert.deepEqual([told, (await treadle.thread("m")).memory], [{ asked: 3, unit: "C" }, told]);
const turn = { agent: "waits for its turn", thread_id: "turn", max_attempts: 1 };
assert.match((await treadle.run("x", turn).catch((error) => error)).message, /waits for this one's turn/);
assert.deepEqual([refused.state, refused.message], ["failed", "never"]);
for await (const event of treadle.stream(hanging)) if (event.type === "started") await treadle.cancel(hanging);
assert.equal((await treadle.status(hanging)).state, "cancelled");
const slow = await treadle.run("x", { agent: "hang", timeout_seconds: 0.05, max_attempts: 1 }).catch((error) => error);
assert.match(slow.message, /longer than 0.05 seconds/);
const left = await treadle.submit("x", { agent: "hang" });
for await (const event of treadle.stream(left.message_id)) {
  if (event.type === "started") worker.stop();
  if (event.type === "started") worker.stop(); // at once
  if (event.type === "retry") break;
}
await working;
assert.equal((await treadle.status(left.message_id)).state, "queued");
assert.equal(worker.workerId && (await treadle.workers()).length, 1);
assert.deepEqual(lines, []);

// The hook, with the part of React that it uses
const cells = [];
let cleanUp;
const react = {
  useState: (initial) => {
    if (cells.length === 0) cells.push(initial);
    return [cells[0], (next) => (cells[0] = typeof next === "function" ? next(cells[0]) : next)];
  },
  useEffect: (effect) => (cleanUp ??= effect()),
};
const { useMessage } = createHooks(react);
const shown = await treadle.submit("one two", { agent: "echo" });
assert.equal(useMessage(treadle, shown.message_id).state, "queued");
while (cells[0].state !== "completed") await new Promise((resolve) => setTimeout(resolve, 5));
assert.deepEqual([cells[0].text, cells[0].result], ["one two", "one two"]);
cleanUp();
assert.equal(reduce(cells[0], { type: "queued", data: {} }).text, "");

// A stream that is cut at every event goes on with exactly the rest
const cut = new Treadle({ url: proxy });
const long = await treadle.submit("x", { agent: "script" });
console.log(`long ${long.message_id}`);
const ids = [];
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
for await (const event of cut.stream(long.message_id)) {
  if (!event.id) continue;
  ids.push(event.id);
  console.log("cut"); // the test cuts the connections, lets the agent say a word, and says so
  await answers.next();
}
process.stdin.destroy();
assert.deepEqual(ids, ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
console.log("done");
