"""Agents that worker processes import, for tests of isolated attempts."""

import asyncio
import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from service.agents.model_calls import model_call
from tests.support.gates import until_open
from treadle import Context, Rejected, RetryAfter, agent


def told(context: Context) -> dict[str, Any]:
    """The fields of a context."""
    assert context.deadline.tzinfo
    context.log.info("a line of %s", context.message_id)
    return {
        "message_id": context.message_id,
        "thread_id": context.thread_id,
        "attempt": context.attempt,
        "metadata": context.metadata,
        "cancelled": context.cancelled,
        "deadline": context.deadline.timestamp(),
        "process": os.getpid(),
        "worker": os.getppid(),
    }


@agent("everything", timeout=30)
async def everything(context: Context, text: str) -> Any:
    """Uses every method of its context."""
    await asyncio.gather(*(context.emit(f"{text}{number} ") for number in range(20)))
    await context.event("progress", {"percent": 50})
    for type, data in (("done", 1), ("big", "x" * 2_000_000)):
        with contextlib.suppress(ValueError):
            await context.event(type, data)
            raise AssertionError(type)
    with contextlib.suppress(TypeError):
        await context.emit(b"bytes")  # type: ignore[arg-type]
    await context.emit("\x00end")
    context.usage(tokens=7)
    exchanges = [[exchange.message, exchange.result] for exchange in await context.history(1)]
    context.usage(cents=0.5, model="m", tokens=8)
    put = {"op": "put", "namespace": ["n"], "key": context.message_id, "value": {"a": 1}}
    stored = await context.use_store([put, {**put, "op": "get"}])  # type: ignore[attr-defined]
    return {**told(context), "exchanges": exchanges, "stored": stored[1]["value"]}


@agent("everything sync", timeout=30)
def everything_sync(context: Any, text: str) -> Any:
    """The same in a thread."""
    for number in range(20):
        context.emit(f"{text}{number} ")
    context.event("progress", {"percent": 50})
    with contextlib.suppress(ValueError):
        context.event("done", 1)
        raise AssertionError
    context.emit("\x00end")
    context.usage(tokens=7)
    exchanges = [[exchange.message, exchange.result] for exchange in context.history(1)]
    context.usage(cents=0.5, model="m", tokens=8)
    return {**told(context), "exchanges": exchanges}


@agent("apart", run_in="process")
async def apart(context: Context, text: str) -> str:
    """Steps, asks a model, and sends a message to the agent `helper`."""
    await context.step("look up", lambda: 1)
    with model_call("anthropic", "claude-test"):
        pass
    return await context.send("hello", agent="helper")


@agent("publisher", run_in="process")
async def publisher(context: Context, text: str) -> str:
    """Publishes a number to `orders`. What it returns is why a text is refused."""
    await context.publish("orders", {"a": 7})
    try:
        await context.publish("orders", {"a": text})
    except Rejected as error:
        return str(error)
    raise AssertionError


@agent("outlives")
async def outlives(context: Context, text: str) -> None:
    """Does not end in its first attempt."""
    await context.emit(f"attempt {context.attempt}")
    if context.attempt == 1:
        await asyncio.Event().wait()


class Invoice(msgspec.Struct):
    customer: str
    cents: list[int]


class Total(msgspec.Struct):
    customer: str
    total: int


@agent("total")
async def total(context: Context, invoice: Invoice) -> Total:
    """Adds up."""
    return Total(invoice.customer, sum(invoice.cents))


@agent("fails")
async def fails(context: Context, how: str) -> Any:
    """Raises what it is told to."""

    class Unpicklable(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not to be pickled")

    await context.emit("before")
    match how:
        case "retry":
            raise RetryAfter(1000, "Later.")
        case "reject":
            raise Rejected("No.")
        case "unpicklable":
            raise Unpicklable("odd")
        case "exit":
            sys.exit(4)
        case "cancel":
            raise asyncio.CancelledError
        case "interrupt":
            raise KeyboardInterrupt
        case "no json":
            return object()


@agent("dies")
async def dies(context: Context, how: str) -> None:
    """Ends its process."""
    context.usage(tokens=1)
    await context.emit("last words")
    if how == "exit":
        os._exit(3)
    if how == "leaves one behind":  # a process that keeps the connection open
        if os.fork():
            os._exit(0)
        signal.pause()
    os.kill(os.getpid(), getattr(signal, how))


@agent("closes stderr")
async def closes_stderr(context: Context, text: str) -> str:
    sys.stderr.close()
    return text


@agent("cancels all")
async def cancels_all(context: Context, text: str) -> str:
    """Cancels every task of the loop but its own."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    return text


@agent("flood")
async def flood(context: Context, text: str) -> None:
    """Emits four megabytes as fast as it can."""
    for number in range(4000):
        await context.emit(f"{number:04}" + "x" * 996)


@agent("stays")
async def stays(context: Context, how: str) -> str:
    """Emits its process ids, and stays in the way that it is told."""
    await context.emit(f"{os.getpid()} {os.getppid()}")
    match how:
        case "swallows":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        case "blocks":
            while True:
                time.sleep(1000)  # noqa: ASYNC251 - what an agent must not do
        case "computes":  # without releasing the interpreter lock
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "babbles":
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await context.emit("x" * 1000)
        case "listens":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                await context.emit(f" {error.args[0]} goodbye")
                raise
        case gate:
            await until_open(gate)
            await context.emit(" over")
    return how


@agent("stays sync")
def stays_sync(context: Any, how: str) -> str:
    """The same in a thread."""
    context.emit(f"{os.getpid()} {os.getppid()}")
    while how == "blocks" or not context.cancelled:
        time.sleep(0.01)
    context.emit(" goodbye")
    return how


@agent("steps")
async def steps(context: Context, file: str) -> list[str]:
    """Takes five steps and writes each to a file; before the fourth it waits at a gate."""

    async def step() -> str:
        with open(file, "a") as notes:  # noqa: ASYNC230
            notes.write(f"{number} {os.getpid()}\n")
        return str(number)

    found = []
    for number in range(5):
        if number == 3:
            await until_open(f"{file}.go")
        found.append(await context.step(f"step {number}", step))
    return found


@agent("parent", timeout=30)
async def parent(context: Context, text: str) -> Any:
    """Waits for children and for an input, and writes to its memory."""
    await context.step("one", lambda: None)
    doubled = await context.gather(*[await context.send(word, agent="child") for word in text.split()])
    answer = await context.input({"is it": doubled})
    context.memory["answer"] = answer
    return {**told(context), "doubled": doubled, "instance": await context.instance(lambda: 7)}


@agent("parent sync", timeout=30)
def parent_sync(context: Any, text: str) -> Any:
    """The same in a thread."""
    context.step("one", lambda: None)
    doubled = context.gather(*[context.send(word, agent="child") for word in text.split()])
    answer = context.input({"is it": doubled})
    context.memory = {"answer": answer}
    return {**told(context), "doubled": doubled, "instance": context.instance(lambda: 7)}


@agent("child")
async def child(context: Context, text: str) -> str:
    """Says it twice."""
    return text * 2


class Order(msgspec.Struct):
    number: int


@agent("orders")
async def orders(context: Context, order: Order) -> int:
    """Doubles the number of an order."""
    return order.number * 2


@agent("sends an order")
async def sends_an_order(context: Context, order: dict[str, Any]) -> Any:
    """Sends what it receives, and returns the answer."""
    [answer] = await context.gather(await context.send(order, agent="orders"))
    return answer


@agent("crunches", run_in="process", timeout=30, max_attempts=1)
def crunches(context: Any, text: str) -> Any:
    """Computes, in a process that can be ended."""
    context.event("begun", os.getpid())
    while text == "endless":
        pass
    return told(context)


@agent("hoards", run_in="process", timeout=30, max_attempts=1)
def hoards(context: Any, text: str) -> None:
    """Takes memory up to a limit of 64 MB beyond the size of its process."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 64_000_000, size + 64_000_000))
    hoard = []
    while True:
        hoard.append(bytearray(1_000_000))
        if text == "die" and len(hoard) == 20:
            signal.raise_signal(signal.SIGABRT)  # like a library that cannot allocate


@agent("holds", max_attempts=1)
async def holds(context: Context, gate: str) -> str:
    """Waits at a gate with the GIL: no thread of its process runs meanwhile."""
    os.mkfifo(gate)
    os.close(ctypes.PyDLL(None).open(gate.encode(), os.O_RDONLY))  # unlike CDLL, it does not release the GIL
    return "released"


@agent("sends to unknown", run_in="process", timeout=30)
async def sends_to_unknown(context: Context, text: str) -> None:
    """Sends to an agent that is not registered, or a message that is too large."""
    await context.send("y" * 2_000_000 if text == "large" else "x", agent="nosuch")
    await context.step("commits", lambda: 1)
