"""A web page of another origin, as a person visits it, and what it tries with an API."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

PAGE = b"<!doctype html><meta charset=utf-8><title>A page</title><script src=/page.js></script>"

# Every function answers with a text or a value that says what the page saw.
SCRIPT = b"""
const JSON_BODY = { method: "POST", headers: { "Content-Type": "application/json" } };

function after(milliseconds) { return new Promise((done) => setTimeout(() => done("silent"), milliseconds)); }

async function tried(attempt) {
  try { return await attempt(); } catch (error) { return `refused: ${error.name}`; }
}

function submit(api, message, options = {}) {
  return tried(async () => {
    const answer = await fetch(`${api}/messages`, { ...JSON_BODY, body: JSON.stringify({ message }), ...options });
    return { status: answer.status, location: answer.headers.get("Location"), body: await answer.json() };
  });
}

function read(api, path, options = {}) {
  return tried(async () => {
    const answer = await fetch(api + path, options);
    return await answer.text() || answer.type;
  });
}

function submitForm(api, enctype) {
  const form = Object.assign(document.createElement("form"), { method: "POST", action: `${api}/messages`, enctype });
  const field = Object.assign(document.createElement("input"), { name: '{"message": "form", "x": "', value: '"}' });
  const frame = Object.assign(document.createElement("iframe"), { name: `answer-${enctype}` });
  form.target = frame.name;
  form.append(field);
  document.body.append(frame, form);
  return new Promise((done) => { frame.onload = () => done("sent"); form.submit(); });
}

function embed(api, tag, path) {
  const element = document.createElement(tag);
  return new Promise((done) => {
    element.onload = () => done("loaded");
    element.onerror = () => done("refused");
    element.src = api + path;
    document.body.append(element);
  });
}

function eventSource(api, path) {
  const source = new EventSource(api + path), seen = [];
  return new Promise((done) => {
    source.onopen = () => seen.push("open");
    source.onerror = () => { source.close(); done([...seen, "refused"]); };
    for (const type of ["queued", "chunk"]) source.addEventListener(type, () => seen.push(type));
    source.addEventListener("done", (event) => { source.close(); done([...seen, "done", event.lastEventId]); });
  });
}

async function fetchStream(api, path, lastId, headers) {
  const answer = await fetch(api + path, { headers: { "Last-Event-ID": lastId, ...headers } });
  let text = "";
  for await (const part of answer.body.pipeThrough(new TextDecoderStream())) text += part;
  return [...text.matchAll(/^event: (.*)$/gm)].map((found) => found[1]);
}

function chat(url, text) {
  const socket = new WebSocket(url), seen = [];
  return new Promise((done) => {
    socket.onclose = (event) => done([...seen, `closed ${event.code}`]);
    socket.onopen = () => socket.send(JSON.stringify({ type: "user_input", text }));
    socket.onmessage = (message) => {
      const frame = JSON.parse(message.data);
      seen.push(frame.event ?? frame.status);
      if (frame.event === "done") socket.close();
    };
  });
}
"""


@contextlib.asynccontextmanager
async def foreign_page() -> AsyncIterator[int]:
    """Serve the page on loopback; gives the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        is_script = request.startswith(b"GET /page.js ")
        body, kind = (SCRIPT, b"text/javascript") if is_script else (PAGE, b"text/html")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (kind, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
