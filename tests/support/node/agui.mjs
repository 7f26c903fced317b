// Scenes of the unmodified @ag-ui/client against an API. TREADLE_SCENES has {url, headers}; the output is JSON.
import { HttpAgent } from "@ag-ui/client";

const { url, headers } = JSON.parse(process.env.TREADLE_SCENES);
const told = {};

function connect(threadId) {
  return new HttpAgent({ url: `${url}/agui/scene`, headers, threadId });
}

async function play(agent, text, options = {}) {
  if (text !== null) agent.addMessage({ id: `u${agent.messages.length}`, role: "user", content: text });
  const types = [];
  let outcome;
  let failed;
  const { result } = await agent.runAgent(options, {
    onEvent: ({ event }) => void types.push(event.type),
    onRunFinishedEvent: ({ event }) => void (outcome = event.outcome),
    onRunErrorEvent: ({ event }) => void (failed = { message: event.message, code: event.code }),
  });
  return { types, outcome, failed, result };
}

const seen = (agent) => agent.messages.map(({ role, content, toolCalls }) => [role, content ?? "", toolCalls?.length ?? 0]);

const all = connect("all");
told.all = await play(all, "all");
told.allMessages = seen(all);
told.again = await play(all, "all");
told.state = all.state;

const ask = connect("ask");
told.ask = await play(ask, "ask");
const refused = new HttpAgent({ url: `${url}/agui/scene`, headers, threadId: "ask" });
told.refused = (await play(refused, "Well?")).failed;
const [interrupt] = ask.pendingInterrupts;
const resume = [{ interruptId: interrupt.id, status: "resolved", payload: "Celsius" }];
told.answered = await play(ask, null, { resume });
told.askMessages = seen(ask);
const once = new HttpAgent({ url: `${url}/agui/scene`, headers, threadId: "ask" });
told.answeredAgain = await play(once, null, { resume });
const dropped = connect("dropped");
await play(dropped, "ask");
const abandoned = [{ interruptId: dropped.pendingInterrupts[0].id, status: "cancelled" }];
told.abandoned = (await play(dropped, null, { resume: abandoned })).outcome;

const weather = connect("weather");
const tools = [{ name: "get_weather", description: "The weather", parameters: { type: "object" } }];
told.weather = await play(weather, "weather", { tools });
for (const [number, id] of told.weather.outcome.pendingToolCallIds.entries())
  weather.addMessage({ id: `r${number}`, role: "tool", toolCallId: id, content: ["sun", "rain"][number] });
told.weatherAnswer = await play(weather, null, { tools });
told.weatherMessages = seen(weather);

const retry = connect("retry");
told.retry = await play(retry, "retry");
told.retryMessages = seen(retry);
told.object = await play(connect("object"), "object");
told.failed = (await play(connect("failed"), "trouble")).failed;

const cut = connect("cut");
cut.addMessage({ id: "u", role: "user", content: "hold" });
const going = cut.runAgent({ runId: "cut" }, { onTextMessageContentEvent: () => cut.abortRun() }).catch(() => undefined);
await going;
const stopper = connect("cut");
stopper.addMessage({ id: "u", role: "user", content: "hold" });
let stopped = null;
const types = [];
const { result } = await stopper.runAgent(
  { runId: "cut" },
  {
    onEvent: ({ event }) => void types.push(event.type),
    onTextMessageContentEvent: () => {
      const call = () => fetch(`${url}/agui/agent/scene/stop/cut`, { method: "POST", headers });
      stopped ??= call().then((answer) => answer.json());
    },
    onRunFinishedEvent: ({ event }) => void (told.cancelled = event.outcome),
  },
);
told.stopped = await stopped;
told.cutTypes = types;

const connected = new HttpAgent({ url: `${url}/agui/agent/scene/connect`, headers, threadId: "weather" });
told.connected = (await play(connected, null)).types;
told.connectedMessages = seen(connected);
console.log(JSON.stringify(told));
