// Scenes of the unmodified @langchain/langgraph-sdk, each in a thread of its own: test_langgraph.py cuts the connections.
// With `text`, one run of `agent` instead, which says it: test_kills.py kills processes meanwhile.
import { Client } from "@langchain/langgraph-sdk";

const { url, agent, text, metadata } = JSON.parse(process.env.TREADLE_SCENES);
const client = new Client({ apiUrl: url, apiKey: null });
const input = { messages: [{ type: "human", content: text ?? "go" }] };

async function stream(thread, assistant, told = () => {}) {
  const seen = [];
  const options = { input, metadata, streamMode: ["values", "messages-tuple"], ifNotExists: "create" };
  let run;
  options.onRunCreated = (created) => (run = created.run_id);
  for await (const part of client.runs.stream(thread, assistant, options)) {
    seen.push([part.event, part.id]);
    await told(part, run);
  }
  const again = [];
  for await (const part of client.runs.joinStream(thread, run, { lastEventId: "-1" })) again.push([part.event, part.id]);
  const state = await client.threads.getState(thread);
  const texts = state.values.messages.map((message) => message.content);
  return { seen, again, texts, status: (await client.runs.get(thread, run)).status };
}

async function stored() {
  await client.store.putItem(["js", "a"], "k", { n: 1 });
  await client.store.putItem(["js", "b"], "k", { n: 2 });
  const [found] = (await client.store.searchItems(["js"], { filter: { n: { $gt: 1 } } })).items;
  await client.store.deleteItem(["js", "b"], "k");
  const left = (await client.store.listNamespaces({ prefix: ["js"] })).namespaces;
  return [found.namespace, (await client.store.getItem(["js", "a"], "k")).value, await client.store.getItem(["js"], "k"), left];
}

if (text) {
  console.log(JSON.stringify(await stream("js", agent)));
  process.exit();
}

let cancelled = false;
const cancel = async (part, run) => {
  if (part.event === "messages" && !cancelled) {
    cancelled = true;
    await client.runs.cancel("js-cancel", run);
  }
};
const names = ["plain", "cut", "lost", "cancel"];
const told = await Promise.all([
  stream("js-plain", "echo"),
  stream("js-cut", "script"),
  stream("js-lost", "script"),
  stream("js-cancel", "script", cancel),
]);
const extra = {
  assistants: (await client.assistants.search({ limit: 2 })).map((assistant) => assistant.name),
  threads: await client.threads.count({ metadata: { graph_id: "script" } }),
  item: await stored(),
  wait: (await client.runs.wait(null, "echo", { input })).messages.at(-1).content,
};
console.log(JSON.stringify({ ...Object.fromEntries(names.map((name, at) => [name, told[at]])), extra }));
