// Unmodified clients whose replica or worker is killed while an answer streams: test_killed_processes.py kills.
import { HttpAgent } from "@ag-ui/client";

const { url, replica, module } = JSON.parse(process.env.TREADLE_SCENES);
const { Treadle } = await import(module);
process.on("unhandledRejection", () => {}); // @ag-ui/client leaves one behind where a connection breaks

async function seen(text) {
  const body = JSON.stringify({ agent: "seen", message: text });
  await fetch(`${url}/messages`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

// The client never comes back by itself: an application repeats the run.
async function agui(base, text) {
  let told = false;
  const runs = [];
  for (;;) {
    const agent = new HttpAgent({ url: `${base}/agui/stage`, threadId: text.replaceAll(" ", "-") });
    agent.addMessage({ id: "u", role: "user", content: text });
    let outcome = "broken";
    await agent
      .runAgent(
        { runId: "r" },
        {
          onTextMessageContentEvent: () => {
            if (!told) seen(text);
            told = true;
          },
          onRunFinishedEvent: ({ event }) => void (outcome = event.outcome.type),
        },
      )
      .catch(() => undefined);
    if (runs.at(-1) !== outcome) runs.push(outcome); // how often it breaks depends on the connections that it keeps
    if (outcome !== "broken") return [...runs, agent.messages.at(-1).content];
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function treadle(base, text) {
  const client = new Treadle({ url: base });
  const { message_id } = await client.submit(text, { agent: "stage" });
  const ids = [];
  let told = false;
  let answer = "";
  for await (const event of client.stream(message_id)) {
    if (event.id) ids.push(Number(event.id));
    if (event.type === "retry") answer = "";
    if (event.type === "chunk") answer += event.data.chunk;
    if (event.type === "chunk" && !told) await seen(text);
    told ||= event.type === "chunk";
  }
  return [ids.every((id, at) => id === at + 1), answer];
}

const found = await Promise.all([
  agui(replica, "agui replica"),
  agui(url, "agui lost"),
  treadle(replica, "js replica"),
  treadle(url, "js lost"),
]);
console.log(JSON.stringify({ agui: found.slice(0, 2), js: found.slice(2) }));
