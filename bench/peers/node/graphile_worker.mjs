// graphile-worker with the settings of its performance page: a local queue, completions in batches.
//
// config: dsn, jobs, concurrency. Answer: seconds from the first job's start to the last one's end, jobs.
import { Logger, makeWorkerUtils, run } from "graphile-worker";

import { play } from "./lines.mjs";

const BODY = "x".repeat(200);
const BATCH_JOBS = 1_000;
const logger = new Logger(() => () => {}); // its default logger writes to stdout

await play(async ({ dsn, jobs, concurrency }, go) => {
  const utils = await makeWorkerUtils({ connectionString: dsn, logger });
  await utils.migrate();
  for (let start = 0; start < jobs; start += BATCH_JOBS) {
    const count = Math.min(BATCH_JOBS, jobs - start);
    await utils.addJobs(Array.from({ length: count }, () => ({ identifier: "noop", payload: { body: BODY } })));
  }
  await utils.withPgClient((client) => client.query("vacuum (analyze)"));
  await utils.release();
  await go();
  let began = 0;
  let done = 0;
  const ended = Promise.withResolvers();
  const runner = await run({
    connectionString: dsn,
    logger,
    noHandleSignals: true,
    taskList: {
      noop: async () => {
        began ||= performance.now();
        done += 1;
        if (done === jobs) ended.resolve();
      },
    },
    preset: {
      worker: {
        concurrentJobs: concurrency,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
  });
  await ended.promise;
  await runner.stop(); // also waits until the last completions are written
  return { seconds: (performance.now() - began) / 1000, jobs: done };
});
