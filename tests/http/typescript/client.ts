// Compiled with the types that openapi-typescript generates, and run against an API: argv[2] is its address.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };
declare const console: { log(text: string): void };

type NewMessage = components["schemas"]["NewMessage"];

const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });

const least: NewMessage = { message: "hello from TypeScript" }; // every other field can be left out
const most: NewMessage = { ...least, priority: "high", thread_id: null, metadata: { numbers: [1.5] }, delay_seconds: 0 };

const submitted = await client.POST("/messages", { body: least, headers: { "Idempotency-Key": "typescript" } });
if (submitted.error) throw new Error(submitted.error.detail);
const batch = await client.POST("/messages/batch", { body: { messages: [least, most] } });
if (batch.error) throw new Error(batch.error.detail);
const path = { message_id: submitted.data.message_id };
const status = await client.GET("/messages/{message_id}/status", { params: { path } });
if (status.error) throw new Error(status.error.detail);
const page = await client.GET("/messages/{message_id}/events", { params: { path, query: { limit: 1 } } });
const refused = await client.POST("/messages", { body: { message: "x", agent: "poet" } });

const found: { state: string; text: unknown; batch: number; events: number; refused: number } = {
  state: status.data.state,
  text: status.data.user_message,
  batch: batch.data.messages.length,
  events: page.data?.events.length ?? 0,
  refused: refused.error?.status ?? 0,
};
console.log(JSON.stringify(found));
