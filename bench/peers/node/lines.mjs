// The protocol of bench.clients.script: one line of JSON in, `ready`, `go`, one line of JSON out.
import { createInterface } from "node:readline";

/** Run `client(config, go)`; it awaits `go()` once, when it is ready to be measured. */
export async function play(client) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const config = JSON.parse((await lines.next()).value);
  const answer = await client(config, async () => {
    process.stdout.write("ready\n");
    if ((await lines.next()).done) process.exit(1); // the benchmark has ended
  });
  process.stdout.write(JSON.stringify(answer) + "\n");
  await lines.next(); // stay alive until stopped: the benchmark still reads the CPU time
}
