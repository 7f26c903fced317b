"""Which exception an agent raises for an error of a provider's SDK; those of Anthropic and OpenAI have the same fields.

`service` names the API in the sentence; `role` is the member of a team that asked.
"""

from typing import Any

from service.agents.contract import Overloaded, Rejected
from service.agents.http_errors import REFUSAL_STATUSES, cannot_be_reached, error_for_answer, is_overload


class RequestRefused(Rejected):
    """The API refuses the request as it is (400, 413): its size, or something in it. It may accept one with less of
    the conversation."""


def error_for_status(service: str, error: Any, role: str | None = None) -> Exception:
    """For an error status, or for an error event in the middle of a stream."""
    body = error.body.get("message") if isinstance(error.body, dict) else None
    reason = str(getattr(error, "api_message", None) or body or error.message).rstrip(".")
    status = getattr(error, "status_code", 0)
    if status < 400:
        text = f"The {service} API broke off {f'the answer of the {role}' if role else 'its answer'}: {reason}."
        return Overloaded(text) if is_overload(error) else ConnectionError(text)
    text = f"The {service} API answered {f'the {role} ' if role else ''}{status}: {reason}."
    if status in REFUSAL_STATUSES:
        return RequestRefused(text)
    return error_for_answer(status, error.response.headers, text)


def error_for_connection(service: str, error: Exception, role: str | None = None) -> Exception:
    """For a failed connection: Overloaded if the request was not sent."""
    reason = str(error.__cause__ or error).rstrip(".")
    text = f"The {service} API cannot be reached{f' by the {role}' if role else ''}: {reason}."
    return Overloaded(text) if cannot_be_reached(error) else ConnectionError(text)
