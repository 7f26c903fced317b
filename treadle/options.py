"""The options of a submit, whether over HTTP or in SQL."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

Priority = Literal["high", "normal", "low"]
OnBusy = Literal["enqueue", "reject", "interrupt", "rollback", "steer"]


class SubmitOptions(TypedDict, total=False):
    """What can be said of a message beside its text; None counts as left out."""

    agent: str | None
    thread_id: str | None
    priority: Priority
    metadata: Mapping[str, Any] | None
    delay_seconds: float | None
    max_attempts: int | None
    max_losses: int | None
    timeout_seconds: float | None
    aside: bool
    on_busy: OnBusy
    callback_url: str | None
    thread_metadata: Mapping[str, Any] | None


def submission(message: str | Mapping[str, Any], options: SubmitOptions) -> dict[str, Any]:
    """The message as JSON."""
    return {"message": message} | {name: value for name, value in options.items() if value is not None}
