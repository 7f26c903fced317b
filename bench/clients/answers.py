"""Answers of HTTP/1.1 as the clients of the benchmark read them."""


def is_whole(answer: bytes) -> bool:
    """Whether these bytes are an answer with all its body; it has a Content-Length."""
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    at = answer.find(b"content-length: ", 0, head) + 16
    return len(answer) >= head + 4 + int(answer[at : answer.find(b"\r", at)])
