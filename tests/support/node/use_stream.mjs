// The unmodified hook useStream of @langchain/langgraph-sdk in a page of React.
import { JSDOM } from "jsdom";

const { url } = JSON.parse(process.env.TREADLE_SCENES);
const page = new JSDOM("<main></main>", { url });
globalThis.window = page.window;
globalThis.document = page.window.document;
const kept = page.window.sessionStorage;
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/langgraph-sdk/react");

let root;
let rendered;
const shown = () => rendered;
const texts = () => [...document.querySelectorAll("li")].map((item) => item.textContent);
const until = async (is) => {
  for (let tries = 0; !is(); tries++) {
    if (tries === 12_000) throw new Error(JSON.stringify([is.toString(), texts(), rendered?.isLoading, String(rendered?.error)]));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
const open = async (assistantId, threadId) => {
  root?.unmount();
  rendered = undefined;
  const Page = () => {
    rendered = useStream({ apiUrl: url, apiKey: null, assistantId, threadId, fetchStateHistory: true, reconnectOnMount: true });
    return rendered.messages.map((message, at) => createElement("li", { key: at }, message.content));
  };
  root = createRoot(document.querySelector("main"));
  root.render(createElement(Page));
  await until(() => rendered && !rendered.isThreadLoading);
};
const say = (content) => ({ messages: [{ type: "human", content }] });

const { Client } = await import("@langchain/langgraph-sdk");
const client = new Client({ apiUrl: url, apiKey: null });
const thread = (await client.threads.create()).thread_id;
await open("speaker", thread);
const submit = async (values, place, options = {}) => {
  if (place !== undefined) {
    const told = shown().getMessagesMetadata(shown().messages.at(place));
    options.checkpoint = told.firstSeenState.parent_checkpoint;
  }
  await shown().submit(values, options);
  await until(() => !shown().isLoading && shown().history.length > 0);
  return texts();
};
const said = [await submit(say("one"))];
said.push(await submit(say("other"), 0)); // edits the message
said.push(await submit(undefined, -1)); // answers it again
await until(() => shown().getMessagesMetadata(shown().messages[0])?.branchOptions?.length === 2);
const { branchOptions } = shown().getMessagesMetadata(shown().messages[0]);
shown().setBranch(branchOptions[0]);
await until(() => texts()[0] === "one");

// The page is left in the middle of an answer, and opened again.
await open("halts", thread);
shown().submit(say("x"));
await until(() => texts().at(-1) === "one ");
const rejoined = kept.getItem(`lg:stream:${thread}`);
await open("halts", thread);
await client.runs.wait(null, "goes on", { input: say("x") });
await until(() => texts().at(-1) === "one two" && !shown().isLoading);
console.log(JSON.stringify({ said, branches: branchOptions.length, rejoined: rejoined !== null, left: kept.length }));
process.exit();
