"""The socket /ws/chat/queue: what the query asks for, and how a refusal is worded."""

from litestar import Router, websocket
from litestar.di import NamedDependency

from service.access.principal import Scope
from service.params import parse_event_id, parse_thread_id
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.queue_socket.session import QueueSession
from service.protocols.queue_socket.translate import error_frame
from service.refusals import Plain, problem_of
from service.sockets.admission import Caller, Refusal, Sockets
from service.sockets.peer import Socket


class QueueDialect:
    scopes: tuple[Scope, ...] = ("read",)

    def answer(self, error: Refusal) -> Plain:
        return problem_of(error)

    def frame(self, error: Refusal) -> str:
        return error_frame(error)


DIALECT = QueueDialect()


@websocket("/ws/chat/queue")
async def queue_socket(
    socket: Socket, queue_sockets: NamedDependency[QueueSocketServices], sockets: NamedDependency[Sockets]
) -> None:
    """The query has `token`, `session_id` (or `thread_id`), `agent` and `last_event_id`."""
    query = socket.query_params

    async def run(caller: Caller) -> None:
        session = QueueSession(
            queue_sockets,
            caller,
            parse_thread_id(query.get("session_id") or query.get("thread_id") or ""),
            agent=query.get("agent"),
            after=parse_event_id(query.get("last_event_id"), "last_event_id"),
        )
        await session.run()

    await sockets.serve(socket, DIALECT, run)


router = Router("/", route_handlers=[queue_socket], opt={"scope": "read"})
