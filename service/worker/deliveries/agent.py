"""The built-in agent `webhook`: each of its messages is one delivery, which it makes with one POST.

An answer of 2xx completes the delivery, and 410 fails it and disables the endpoint, or deletes the address of push
notifications. After everything else it is tried again at the pace of Standard Webhooks, over three days; an address
that asks for more time (Retry-After) gets it.
"""

import logging
import random
import time
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

from service import telemetry
from service.agents.contract import Context, Rejected, RetryAfter
from service.agents.definition import Agent
from service.agents.http_errors import retry_after_seconds
from service.errors import TreadleError
from service.limits import WEBHOOK_AGENT
from service.name_lookups import Crowded
from service.outbound_filter import AddressRefused, OutboundFilter, Unreachable
from service.webhooks.store import Post, PostStore
from service.worker.deliveries.pace import Pace, put_off
from service.worker.deliveries.signature import signature_headers

log = logging.getLogger(__name__)

REQUEST_SECONDS = 20.0
# Until the next attempt, by the number of failures so far.
DELAYS_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = (0.9, 1.1)
MAX_RETRY_AFTER_SECONDS = 86_400.0
MAX_ASKED_PAUSE_SECONDS = 3_600.0  # of all deliveries to an address
PAUSE_SECONDS = 10.0  # if the address does not say for how long
GONE_STATUS = 410
SLOW_DOWN = frozenset({429, 502, 503, 504})
NOTE_SECONDS = 10.0  # after which an outcome is noted that is the same as the last one
MAX_NOTED = 10_000  # webhooks whose last outcome is remembered


class Deliverer:
    """`places`: how many deliveries run at once."""

    def __init__(self, posts: PostStore, outbound: OutboundFilter, *, places: int) -> None:
        self._posts = posts
        self._outbound = outbound
        self._pace = Pace(places)
        self._noted: OrderedDict[str, tuple[str | None, float]] = OrderedDict()  # error and time, by webhook

    @property
    def agent(self) -> Agent:
        return Agent(WEBHOOK_AGENT, self.deliver)

    async def offer(self) -> None:
        """Callbacks are accepted from now on."""
        await self._posts.offer()

    async def deliver(self, context: Context, body: dict[str, Any]) -> dict[str, Any]:
        """Delivers an event to a webhook."""
        post = await self._posts.find(context.message_id)
        if post.refusal is not None:
            raise Rejected(post.refusal)
        address = post.webhook or _origin(post.url)
        address = f"{post.tenant} {address}"
        is_test = context.metadata.get("event") == "webhook.test"  # a person asks for it, perhaps to end a pause
        if not is_test and (seconds := self._pace.pause_left(address)) is not None:
            raise RetryAfter(
                max(next_delay(post.failures), seconds), "The last deliveries to this address failed: it is paused."
            )
        async with self._pace.place(post.tenant, address, attempt=context.attempt):
            status, asked, error = await self._post(context, post)
        if error is None:
            self._pace.note_success(address)
        else:
            self._pace.note_failure(address, _pause(status, asked))
        await self._note(context, post, status, error)
        if error is None:
            return {"status": status}
        if status == GONE_STATUS:
            if post.webhook is None:
                await self._posts.drop_address(context.message_id, post.url)
            raise Rejected(error)
        raise RetryAfter(max(next_delay(post.failures), asked or 0.0), error)

    async def _post(self, context: Context, post: Post) -> tuple[int | None, float | None, str | None]:
        """The status of the answer, the seconds that it asks to wait, and why it is a failure."""
        body = post.body.encode()
        headers = {"User-Agent": "treadle-webhooks", "Content-Type": "application/json", **post.headers}
        headers |= signature_headers(context.message_id, int(time.time()), body, post.secrets)
        if trace := telemetry.TRACE_PARENT.get() or post.traceparent:
            headers["traceparent"] = trace
        try:
            answer = await self._outbound.post(post.url, body, headers, tenant=post.tenant, seconds=REQUEST_SECONDS)
        except AddressRefused as error:
            await self._note(context, post, None, str(error))
            raise Rejected(str(error)) from None
        except Crowded as error:
            raise put_off(context.attempt, str(error)) from None
        except Unreachable as error:
            return None, None, str(error)
        asked = retry_after_seconds(answer.headers, most=MAX_RETRY_AFTER_SECONDS)
        return answer.status, asked, None if 200 <= answer.status < 300 else f"The address answered {answer.status}."

    async def _note(self, context: Context, post: Post, status: int | None, error: str | None) -> None:
        """Keep with the webhook how the delivery went: changes at once, and repeats from time to time."""
        if post.webhook is None:
            return
        now = time.monotonic()
        last = self._noted.get(post.webhook)
        may_disable = error is not None and (status == GONE_STATUS or post.last_attempt)
        if last is not None and last[0] == error and now - last[1] < NOTE_SECONDS and not may_disable:
            return
        self._noted[post.webhook] = error, now
        self._noted.move_to_end(post.webhook)
        if len(self._noted) > MAX_NOTED:
            self._noted.popitem(last=False)
        try:
            await self._posts.note(post, context.message_id, status=status, error=error, gone=status == GONE_STATUS)
        except TreadleError as problem:  # the outcome of the delivery itself is worth more
            log.log(problem.log_level, "the outcome of a delivery was not noted", extra={"error": str(problem)})


def next_delay(failures: int) -> float:
    """Seconds until the next attempt of a delivery that has failed so often before."""
    return DELAYS_SECONDS[min(failures, len(DELAYS_SECONDS) - 1)] * random.uniform(*JITTER)


def _pause(status: int | None, asked: float | None) -> float | None:
    if status not in SLOW_DOWN:
        return None
    return PAUSE_SECONDS if asked is None else min(asked, MAX_ASKED_PAUSE_SECONDS)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"
