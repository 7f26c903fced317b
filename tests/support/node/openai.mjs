// Scenes of the unmodified packages openai, ai and @ai-sdk/openai: test_openai_frameworks.py cuts the connections, kills
// the replica and the worker, and cancels.
import OpenAI from "openai";
import { createOpenAI } from "@ai-sdk/openai";
import { AbstractChat, convertToModelMessages, DefaultChatTransport, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const { url, cut, replica } = JSON.parse(process.env.TREADLE_SCENES);
const openai = (base) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "unused", maxRetries: 0 });
const sdk = (base) => createOpenAI({ baseURL: `${base}/v1`, apiKey: "unused" });
const keyed = (key) => ({ headers: { "Idempotency-Key": key } });
const weather = { description: "The weather of a city.", city: "Rome", run: ({ city }) => (city === "Rome" ? "Sun" : "none") };

const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const functionTool = { type: "function", name: "get_weather", description: weather.description, parameters: schema };
const sdkTools = {
  get_weather: tool({ description: weather.description, inputSchema: z.object({ city: z.string() }), execute: weather.run }),
};

async function* responses(base, text, key, events = []) {
  const stream = await openai(base).responses.create({ model: "stage", input: text, stream: true }, keyed(key));
  for await (const event of stream) {
    events.push(event);
    if (event.type === "response.output_text.delta") yield event.delta;
    if (event.type === "response.failed") throw new Error(event.response.error.message);
  }
}

async function* chat(base, text, key) {
  const messages = [{ role: "user", content: text }];
  const stream = await openai(base).chat.completions.create({ model: "stage", messages, stream: true }, keyed(key));
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) yield chunk.choices[0].delta.content;
}

function ai(kind) {
  return async function* (base, text, key) {
    const result = streamText({ model: sdk(base)[kind]("stage"), prompt: text, maxRetries: 0, onError: () => {}, ...keyed(key) });
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") yield part.text;
      if (part.type === "error") throw part.error;
    }
  };
}

// What useChat of a page and the routes of its application do, without React and without a server.
const stored = new Map();

class State {
  constructor(messages) {
    this.status = "ready";
    this.messages = messages;
  }
  pushMessage = (message) => (this.messages = [...this.messages, message]);
  popMessage = () => (this.messages = this.messages.slice(0, -1));
  replaceMessage = (at, message) => (this.messages = this.messages.with(at, message));
  snapshot = (value) => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor({ messages = [], ...init }) {
    super({ ...init, state: new State(messages) });
  }
}

async function answer(base, id) {
  const messages = stored.get(id);
  const question = messages.at(-1);
  if (question.role !== "user") return new Response(null, { status: 204 });
  const given = { messages: await convertToModelMessages(messages), maxRetries: 0, onError: () => {} };
  const result = streamText({ model: sdk(base)("stage"), ...given, ...keyed(question.id) });
  return result.toUIMessageStreamResponse();
}

function routes(base) {
  return async (path, init) => {
    if (init.method === "GET") return answer(base, decodeURIComponent(path.split("/")[3]));
    const { id, messages } = JSON.parse(init.body);
    stored.set(id, messages);
    return answer(base, id);
  };
}

async function* useChat(base, text, key) {
  const page = new Chat({ id: key, messages: stored.get(key), transport: new DefaultChatTransport({ fetch: routes(base) }) });
  const work = stored.has(key) ? page.resumeStream() : page.sendMessage({ text });
  let said = "";
  let done = false;
  work.finally(() => (done = true));
  for (;;) {
    const all = page.lastMessage?.role === "assistant" ? page.lastMessage.parts.map((part) => part.text ?? "").join("") : "";
    if (all.length > said.length) yield all.slice(said.length);
    said = all;
    if (done) break;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (page.status === "error") throw page.error;
}

async function seen(text) {
  const body = JSON.stringify({ agent: "seen", message: text });
  await fetch(`${url}/messages`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

async function follow(stream, base, text) {
  let said = "";
  try {
    for await (const delta of stream(base, text, text.replace(" ", "-"))) {
      if (!said) await seen(text);
      said += delta;
    }
    return [false, said];
  } catch {
    return [true, said];
  }
}

async function scenes(name, stream) {
  const bases = { plain: url, cut, replica, lost: url, cancel: url };
  const told = await Promise.all(
    Object.entries(bases).map(async ([scene, base]) => {
      const found = await follow(stream, base, `${name} ${scene}`);
      return base === url ? found : [...found, (await follow(stream, base, `${name} ${scene}`))[1]];
    }),
  );
  return Object.fromEntries(Object.keys(bases).map((scene, at) => [scene, told[at]]));
}

// The SDK's own way after a cut: the rest of the events, after the last number.
async function resumed() {
  const events = [];
  const client = openai(cut);
  let [broken, said] = [false, ""];
  try {
    for await (const delta of responses(cut, "rest cut", "rest-cut", events)) {
      if (!said) await seen("rest cut");
      said += delta;
    }
  } catch {
    broken = true;
  }
  const { id } = events[0].response;
  const rest = await client.responses.retrieve(id, { stream: true, starting_after: events.at(-1).sequence_number });
  for await (const event of rest) events.push(event);
  const whole = [];
  for await (const event of await client.responses.retrieve(id, { stream: true })) whole.push(event);
  return { broken, same: JSON.stringify(events) === JSON.stringify(whole), text: events.at(-1).response.output[0].content[0].text };
}

async function openaiTools() {
  const client = openai(url);
  const first = await client.responses.create({ model: "tourist", input: weather.city, tools: [functionTool] });
  const [call] = first.output;
  const output = weather.run(JSON.parse(call.arguments));
  const input = [{ type: "function_call_output", call_id: call.call_id, output }];
  return (await client.responses.create({ model: "tourist", previous_response_id: first.id, input })).output_text;
}

async function openaiTurns() {
  const client = openai(url);
  const first = await client.responses.create({ model: "recall", input: "a" });
  return (await client.responses.create({ model: "recall", input: "b", previous_response_id: first.id })).output_text;
}

const sdkRun = async (kind, agent, messages) =>
  generateText({ model: sdk(url)[kind](agent), messages, tools: sdkTools, stopWhen: isStepCount(3), maxRetries: 0 });
const sdkWeather = async (kind) => (await sdkRun(kind, "tourist", [{ role: "user", content: weather.city }])).text;
const sdkTurns = async (kind) => {
  const messages = [{ role: "user", content: "a" }];
  messages.push(...(await sdkRun(kind, "recall", messages)).response.messages, { role: "user", content: "b" });
  return (await sdkRun(kind, "recall", messages)).text;
};

const streams = { openai: responses, "openai-chat": chat, ai: ai("responses"), "ai-chat": ai("chat"), "use-chat": useChat };
const [rest, ...told] = await Promise.all([resumed(), ...Object.entries(streams).map(([name, stream]) => scenes(name, stream))]);
const found = Object.fromEntries(Object.keys(streams).map((name, at) => [name, told[at]]));
const tools = [await openaiTools(), await sdkWeather("responses"), await sdkWeather("chat")];
const turns = [await openaiTurns(), await sdkTurns("responses"), await sdkTurns("chat")];
console.log(JSON.stringify({ scenes: found, rest, tools, turns }));
