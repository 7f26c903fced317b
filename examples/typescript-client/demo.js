// Every call of the client, with its output explained. Start `make up` in the repository, then: npm install && npm run demo
//
// TREADLE_URL (default http://localhost:8000) and TREADLE_KEY say where the server is, and which key it receives.

import { Treadle, Worker } from "@treadle/client";

const { env } = process;
const options = { url: env.TREADLE_URL ?? "http://localhost:8000", ...(env.TREADLE_KEY ? { key: env.TREADLE_KEY } : {}) };
const treadle = new Treadle(options);
const thread = `demo-${Date.now()}`;

function title(text) {
  console.log(`\n== ${text}`);
}

title("Submit, and stream the answer");
const first = await treadle.submit("one two three", { agent: "echo", thread_id: thread });
process.stdout.write("the agent echo says: ");
for await (const { text } of treadle.text(first.message_id)) process.stdout.write(text);
console.log();

title("Submit and wait in one call");
console.log("the result is:", await treadle.run("again", { agent: "echo", thread_id: thread }));

title("Read a stream again, from the third event on");
for await (const event of treadle.stream(first.message_id, { after: 2 })) console.log(event.id, event.type);

title("Priorities: of two messages that wait, the high one is first");
const low = await treadle.submit("low", { agent: "echo", priority: "low" });
const high = await treadle.submit("high", { agent: "echo", priority: "high" });
for (const { message_id } of [low, high]) console.log((await treadle.wait(message_id)).priority, "is completed");

title("Cancel a message that would run in an hour");
const later = await treadle.submit("later", { agent: "echo", delay_seconds: 3600 });
await treadle.cancel(later.message_id);
console.log("its state is:", (await treadle.status(later.message_id)).state);

title("The thread is a conversation");
const { items } = await treadle.threadMessages(thread);
console.log(items.map((message) => `${message.user_message} -> ${message.result}`));
console.log("its messages by state:", (await treadle.thread(thread)).states);
console.log("the newest threads:", (await treadle.threads({ limit: 3 })).items.map((found) => found.thread_id));

title("Queues, agents, dead letters");
console.log("messages that wait in all queues:", (await treadle.overview()).total_queued);
for (const queue of await treadle.queues()) console.log(`queue ${queue.name}: ${queue.depth} wait, ${queue.completed} completed`);
console.log("agents:", (await treadle.agents()).map((agent) => agent.agent).join(", "));
const failing = await treadle.submit("x", { agent: "echo", max_attempts: 1, metadata: { fail_times: 1 } });
await treadle.wait(failing.message_id);
console.log("the newest dead letter:", (await treadle.deadLetters("default", { limit: 1 })).items[0]?.reason);
await treadle.redrive(failing.message_id);
console.log("after a redrive its state is:", (await treadle.wait(failing.message_id)).state);

title("Topics");
await treadle.declareTopic("demo.events");
await treadle.publish("demo.events", { value: { at: thread }, key: thread });
for await (const record of treadle.streamTopic("demo.events", { from: "earliest" })) {
  console.log(`record ${record.offset}:`, record.value);
  if (record.value.at === thread) break;
}

title("A remote worker: this program answers messages itself");
const worker = new Worker(
  {
    "demo-shout": async (context, text) => {
      for (const word of text.split(" ")) await context.emit(`${word.toUpperCase()} `);
      return text.toUpperCase();
    },
  },
  options,
);
const working = worker.run();
await worker.registered;
const shouted = await treadle.submit("this ran in your program", { agent: "demo-shout" });
for await (const { text } of treadle.text(shouted.message_id)) process.stdout.write(text);
console.log();
worker.stop();
await working;
console.log("\nThat was every call.");
