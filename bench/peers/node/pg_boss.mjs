// pg-boss, by its calls for batches: fetch 100, complete 100. Its own loop waits half a second between two batches.
//
// config: dsn, jobs, batch. Answer: seconds, jobs.
import { PgBoss } from "pg-boss";
import pg from "pg";

import { play } from "./lines.mjs";

const BODY = "x".repeat(200);
const BATCH_JOBS = 1_000;

await play(async ({ dsn, jobs, batch }, go) => {
  const boss = new PgBoss({ connectionString: dsn });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  await boss.createQueue("noop");
  for (let start = 0; start < jobs; start += BATCH_JOBS) {
    const count = Math.min(BATCH_JOBS, jobs - start);
    await boss.insert("noop", Array.from({ length: count }, () => ({ data: { body: BODY } })));
  }
  const client = new pg.Client(dsn);
  await client.connect();
  await client.query("vacuum (analyze)");
  await client.end();
  await go();
  const began = performance.now();
  let done = 0;
  while (done < jobs) {
    const fetched = await boss.fetch("noop", { batchSize: batch });
    if (!fetched.length) break;
    await boss.complete("noop", fetched.map((job) => job.id));
    done += fetched.length;
  }
  const seconds = (performance.now() - began) / 1000;
  await boss.stop({ graceful: false });
  return { seconds, jobs: done };
});
