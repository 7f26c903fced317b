// Scenes of the unmodified @a2a-js/sdk against an API. TREADLE_SCENES has {url}; the output is JSON by binding.
import { ClientFactory, JsonRpcTransportFactory, RestTransportFactory } from "@a2a-js/sdk/client";

const { url } = JSON.parse(process.env.TREADLE_SCENES);
const told = {};
const state = (status) => status.state;
const text = (parts) => parts.map(({ content }) => content.value).join("");

function said(value, fields = {}) {
  const part = { content: { $case: "text", value }, metadata: undefined, filename: "", mediaType: "" };
  const message = {
    messageId: crypto.randomUUID(), contextId: "", taskId: "", role: 1, parts: [part], metadata: undefined,
    extensions: [], referenceTaskIds: [], ...fields,
  };
  return { tenant: "", message, configuration: undefined, metadata: undefined };
}

async function read(stream, found = { text: "", states: [] }) {
  for await (const { payload } of stream) {
    if (payload.$case === "task") {
      found.id = payload.value.id;
      found.states.push(state(payload.value.status));
      found.text = payload.value.artifacts.map(({ parts }) => text(parts)).join("");
    } else if (payload.$case === "statusUpdate") {
      found.states.push(state(payload.value.status));
    } else {
      found.text = (payload.value.append ? found.text : "") + text(payload.value.artifact.parts);
    }
    if (found.stop?.(found)) break;
  }
  return { id: found.id, text: found.text, last: found.states.at(-1) };
}

for (const [name, factory] of [["JSONRPC", JsonRpcTransportFactory], ["HTTP+JSON", RestTransportFactory]]) {
  const client = await new ClientFactory({ transports: [new factory()] }).createFromUrl(`${url}/a2a/scene/`);
  const scenes = (told[name] = {});
  scenes.plain = await read(client.sendMessageStream(said("all")));
  const blocking = await client.sendMessage(said("retry"));
  scenes.blocking = { text: text(blocking.artifacts[0].parts), last: state(blocking.status) };
  const asked = await client.sendMessage(said("ask"));
  const answer = said("Celsius", { taskId: asked.id, contextId: asked.contextId });
  scenes.answered = await read(client.sendMessageStream(answer));
  const cut = await read(client.sendMessageStream(said("hold")), { text: "", states: [], stop: (found) => found.text });
  let joined;
  const begun = new Promise((resolve) => (joined = resolve));
  const rest = read(client.resubscribeTask({ tenant: "", id: cut.id }), { text: "", states: [], stop: () => void joined() });
  await Promise.race([begun, rest]); // a task that is over has no stream
  scenes.cancelled = state((await client.cancelTask({ tenant: "", id: cut.id, metadata: undefined })).status);
  scenes.rest = await rest;
  scenes.listed = (await client.listTasks({ tenant: "", contextId: asked.contextId, status: 0, pageToken: "" })).tasks.length;
  scenes.refused = await client.getTask({ tenant: "", id: "unknown" }).catch((error) => error.name);
}
console.log(JSON.stringify(told));
