// The unmodified hook useStream of @langchain/langgraph-sdk, with the part of React that it uses.
import { registerHooks } from "node:module";

const react = `
  let cells, at, effects, component, shown, scheduled;
  const same = (a, b) => a && b && a.length === b.length && a.every((item, n) => Object.is(item, b[n]));
  const cell = (make) => (cells[at++] ??= make());
  const run = () => {
    [at, effects, scheduled] = [0, [], false];
    shown = component();
    for (const effect of effects) effect();
  };
  const schedule = () => {
    if (!scheduled && component) setTimeout(() => component && run());
    scheduled = true;
  };
  export const useState = (initial) => {
    const own = cell(() => {
      const made = { value: typeof initial === "function" ? initial() : initial };
      made.set = (next) => {
        const value = typeof next === "function" ? next(made.value) : next;
        if (!Object.is(value, made.value)) [made.value] = [value, schedule()];
      };
      return made;
    });
    return [own.value, own.set];
  };
  export const useRef = (current) => cell(() => ({ current }));
  export const useMemo = (make, deps) => {
    const own = cell(() => ({}));
    if (!same(own.deps, deps)) Object.assign(own, { deps, value: make() });
    return own.value;
  };
  export const useCallback = (call, deps) => useMemo(() => call, deps);
  export const useEffect = (effect, deps) => {
    const own = cell(() => ({}));
    if (same(own.deps, deps)) return;
    own.deps = deps;
    effects.push(() => {
      own.clean?.();
      own.clean = effect();
    });
  };
  export const useSyncExternalStore = (subscribe, snapshot) => {
    useEffect(() => subscribe(schedule), [subscribe]);
    return snapshot();
  };
  export const mount = (render) => {
    [cells, component] = [[], render];
    run();
    return () => shown;
  };
  export const unmount = () => {
    component = null;
    for (const own of cells) own.clean?.();
  };
`;
const address = `data:text/javascript,${encodeURIComponent(react)}`;
registerHooks({
  resolve: (name, context, next) => (name === "react" ? { url: address, shortCircuit: true } : next(name, context)),
});
const { mount, unmount } = await import("react");
const { useStream } = await import("@langchain/langgraph-sdk/react");

const { url } = JSON.parse(process.env.TREADLE_SCENES);
globalThis.window = {};
const kept = new Map();
const storage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
};
const hook = (assistantId, threadId) =>
  mount(() =>
    useStream({ apiUrl: url, apiKey: null, assistantId, threadId, fetchStateHistory: true, reconnectOnMount: () => storage }),
  );
const until = async (is) => {
  for (let tries = 0; !is(); tries++) {
    if (tries === 2000) throw new Error(JSON.stringify([is.toString(), texts(shown), shown().isLoading, String(shown().error)]));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
const texts = (shown) => shown().messages.map((message) => message.content);
const say = (content) => ({ messages: [{ type: "human", content }] });

const { Client } = await import("@langchain/langgraph-sdk");
const thread = (await new Client({ apiUrl: url, apiKey: null }).threads.create()).thread_id;
let shown = hook("speaker", thread);
const submit = async (values, place, options = {}) => {
  if (place !== undefined) {
    const told = shown().getMessagesMetadata(shown().messages.at(place));
    options.checkpoint = told.firstSeenState.parent_checkpoint;
  }
  await shown().submit(values, options);
  await until(() => !shown().isLoading && shown().history.length > 0);
  return texts(shown);
};
const said = [await submit(say("one"))];
said.push(await submit(say("other"), 0)); // edits the message
said.push(await submit(undefined, -1)); // answers it again
await until(() => shown().getMessagesMetadata(shown().messages[0])?.branchOptions?.length === 2);
const { branchOptions } = shown().getMessagesMetadata(shown().messages[0]);
shown().setBranch(branchOptions[0]);
await until(() => texts(shown)[0] === "one");
unmount();

// The page is left while the agent speaks, and opened again.
shown = hook("echo", thread);
const words = "a b c d e f g h";
shown().submit(say(words), { metadata: { delay_ms: 150 } });
await until(() => kept.size > 0);
unmount();
const rejoined = kept.get(`lg:stream:${thread}`);
shown = hook("echo", thread);
await until(() => texts(shown).at(-1) === words && !shown().isLoading);
console.log(JSON.stringify({ said, branches: branchOptions.length, rejoined: rejoined !== undefined, left: kept.size }));
process.exit();
