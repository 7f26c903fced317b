// CopilotKit's front end (its core, on which the hooks for React, Angular and Vue build) against an API: a tool of the
// page is called, and a page that is opened again shows the conversation, also while a run is going on.
import { CopilotKitCore } from "@copilotkit/core";
import { JSDOM } from "jsdom";
import { z } from "zod";

const { url } = JSON.parse(process.env.TREADLE_SCENES);
globalThis.window = new JSDOM("", { url }).window; // it connects in pages only
const until = async (is) => {
  for (let tries = 0; !is(); tries++) {
    if (tries === 12_000) throw new Error(is.toString());
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
const asked = [];

async function open(threadId) {
  const kit = new CopilotKitCore({ runtimeUrl: `${url}/agui` });
  kit.addTool({
    name: "get_weather",
    description: "The weather of a city.",
    parameters: z.object({ city: z.string() }),
    handler: async ({ city }) => (asked.push(city), city === "Rome" ? "sun" : "rain"),
  });
  await until(() => kit.runtimeConnectionStatus === "connected");
  const agent = kit.getAgent("scene");
  agent.threadId = threadId;
  return [kit, agent];
}
const told = (agent) => agent.messages.map(({ role, content }) => [role, content ?? ""]);

const [kit, agent] = await open("kit");
agent.addMessage({ id: "u1", role: "user", content: "weather" });
await kit.runAgent({ agent });
const [again, other] = await open("kit");
await again.connectAgent({ agent: other });

const [first, holding] = await open("held");
holding.addMessage({ id: "u1", role: "user", content: "hold" });
const run = first.runAgent({ agent: holding }).catch(() => undefined);
await until(() => told(holding).at(-1)[1] === "I hold. ");
const [second, joined] = await open("held");
const connection = second.connectAgent({ agent: joined }).catch(() => undefined);
await until(() => told(joined).at(-1)?.[1] === "I hold. ");
second.stopAgent({ agent: joined });
await Promise.all([run, connection]);
console.log(JSON.stringify({ asked, weather: told(agent), reloaded: told(other), held: told(joined) }));
process.exit();
