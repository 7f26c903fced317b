"""The sockets /ws/chat?thread_id= and /ws/{thread_id}: what the query asks for, and how a refusal is worded."""

from collections.abc import Mapping

from litestar import Router, websocket
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.access.principal import Scope
from service.errors import Invalid
from service.params import parse_event_id, parse_thread_id
from service.protocols.websocket.model import Error
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.session import Session
from service.protocols.websocket.transcript import SeenEvent
from service.protocols.websocket.translate import encode_frame
from service.refusals import Plain, problem_of
from service.sockets.admission import Caller, Refusal, Sockets
from service.sockets.peer import Socket


class ChatDialect:
    scopes: tuple[Scope, ...] = ("read",)  # a socket shows the log of its thread

    def answer(self, error: Refusal) -> Plain:
        return problem_of(error)

    def frame(self, error: Refusal) -> str:
        return encode_frame(Error(str(error), error.status, retry_after=error.retry_after))


DIALECT = ChatDialect()


@websocket("/ws/chat")
async def chat(socket: Socket, chats: NamedDependency[ChatServices], sockets: NamedDependency[Sockets]) -> None:
    """The query has `thread_id` (or `session_id`), `agent`, `last_event_id`, `log`, and `token`."""
    query = socket.query_params
    await _serve(socket, chats, sockets, query.get("thread_id", query.get("session_id")))


@websocket("/ws/{thread_id:str}")
async def thread_chat(
    socket: Socket,
    thread_id: FromPath[str],
    chats: NamedDependency[ChatServices],
    sockets: NamedDependency[Sockets],
) -> None:
    """The query has the same, without `thread_id`. A frame may be just what the user says."""
    await _serve(socket, chats, sockets, thread_id, takes_bare_texts=True)


router = Router("/", route_handlers=[chat, thread_chat], opt={"scope": "read"})


async def _serve(
    socket: Socket, chats: ChatServices, sockets: Sockets, thread_id: str | None, *, takes_bare_texts: bool = False
) -> None:
    query = socket.query_params

    async def run(caller: Caller) -> None:
        session = Session(
            chats,
            caller,
            parse_thread_id(thread_id or ""),
            _parse_seen(query),
            agent=query.get("agent"),
            takes_bare_texts=takes_bare_texts,
        )
        await session.run()

    await sockets.serve(socket, DIALECT, run)


def _parse_seen(query: Mapping[str, str]) -> SeenEvent:
    log = query.get("log") or None
    if log is not None and not (log.isascii() and log.isdecimal() and len(log) < 20):
        raise Invalid("log must be the log that the frame `open` named, a whole number.")
    return SeenEvent(parse_event_id(query.get("last_event_id"), "last_event_id"), None if log is None else int(log))
