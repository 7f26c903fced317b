"""WebSockets of threads, as the clients of the benchmark speak them: handshakes, pings and short texts."""

HANDSHAKE = (
    b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
PING_BYTE = 0x89


def opening(thread: str, after: int = 0) -> bytes:
    """The request for a thread's socket, which sends the events after `after`."""
    return f"GET /ws/{thread}?last_event_id={after} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode() + HANDSHAKE + b"\r\n"


def pong(data: bytes) -> bytes | None:
    """The answer to a ping, if that is what a server has sent; masked with zeros."""
    if data[0] != PING_BYTE:
        return None
    size = data[1]
    return bytes((0x8A, 0x80 | size)) + bytes(4) + data[2 : 2 + size]
