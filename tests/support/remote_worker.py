"""A remote worker as a program without our client would write it: plain calls of the lease protocol."""

from typing import Any
from uuid import uuid4

import httpx

from tests.support.api_client import Client


class RemoteWorker:
    """Keeps the leases and numbers the events of what it claims. `headers`: its key."""

    def __init__(self, api: Client, headers: dict[str, str] | None = None) -> None:
        self.api = api
        self._headers = headers or {}
        self.worker_id = f"remote:{uuid4()}"
        self.queues: list[str] = []
        self.claimed: dict[str, dict[str, Any]] = {}  # by message

    async def register(self, *agents: str, status: int = 201, **fields: Any) -> dict[str, Any]:
        body = {"agents": [{"agent": agent, **fields} for agent in agents]}
        answer = await self.api.post("/workers", json=body, headers=self._headers)
        assert answer.status_code == status, answer.text
        if status == 201:
            self.worker_id, self.queues = answer.json()["worker_id"], answer.json()["queues"]
        return dict(answer.json())

    async def call(self, name: str, **body: Any) -> httpx.Response:
        return await self.api.post(f"/workers/{self.worker_id}/{name}", json=body, headers=self._headers)

    async def claim(self, quantity: int = 1, wait: float = 30) -> list[dict[str, Any]]:
        answer = await self.call("claim", quantity=quantity, wait=wait)
        assert answer.status_code == 200, answer.text
        messages: list[dict[str, Any]] = answer.json()["messages"]
        self.claimed |= {message["message_id"]: message for message in messages}
        return messages

    async def append(self, message_id: str, *texts: str) -> httpx.Response:
        message = self.claimed[message_id]
        events = [{"type": "chunk", "data": {"chunk": text, "index": n}} for n, text in enumerate(texts)]
        answer = await self.call("append", **self._lease(message), first_seq=message["last_seq"] + 1, events=events)
        if answer.status_code == 200:
            message["last_seq"] = answer.json()["last_seq"]
        return answer

    async def finish(self, message_id: str, outcome: str = "completed", **fields: Any) -> httpx.Response:
        message = self.claimed[message_id]
        return await self.call(
            "finish",
            **self._lease(message),
            attempt=message["attempt"],
            first_seq=message["last_seq"] + 1,
            outcome=outcome,
            **fields,
        )

    async def beat(self, *message_ids: str) -> dict[str, str]:
        """A heartbeat that names the leases of these messages; returns the verdicts by message."""
        answer = await self.call("heartbeat", leases=[self._lease(self.claimed[one]) for one in message_ids])
        assert answer.status_code == 200, answer.text
        return {verdict["message_id"]: verdict["verdict"] for verdict in answer.json()["verdicts"]}

    async def sign_off(self) -> None:
        answer = await self.api.delete(f"/workers/{self.worker_id}", headers=self._headers)
        assert answer.status_code == 204, answer.text

    def _lease(self, message: dict[str, Any]) -> dict[str, str]:
        return {"message_id": message["message_id"], "lease": message["lease"]}
