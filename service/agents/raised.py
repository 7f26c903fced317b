"""What an agent means by the exception that it raised."""

from collections.abc import Sequence

from service.agents.contract import Rejected, RetryAfter


def decisive(error: BaseException) -> BaseException:
    """The exception that decides what happens next.

    Of an ExceptionGroup, however deeply nested: the first Rejected, else the RetryAfter with the longest delay, else
    the first exception. Any other exception decides for itself.
    """
    return decisive_of(leaves(error))


def decisive_of(raised: Sequence[BaseException]) -> BaseException:
    """The same, of the exceptions in a group."""
    if rejected := next((leaf for leaf in raised if isinstance(leaf, Rejected)), None):
        return rejected
    later = [leaf for leaf in raised if isinstance(leaf, RetryAfter)]
    return max(later, key=lambda leaf: leaf.seconds) if later else raised[0]


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and in the groups inside it, in their order; else the exception itself."""
    found = []
    rest = [error]
    while rest:
        current = rest.pop()
        if isinstance(current, BaseExceptionGroup):
            rest.extend(reversed(current.exceptions))
        else:
            found.append(current)
    return found


def said(error: BaseException) -> str:
    """Its text; empty where its own code cannot say it."""
    try:
        return str(error)
    except Exception:
        return ""
