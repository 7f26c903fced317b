"""The names of what an attempt does: workers of the installation and remote workers give the same ones."""

import pytest

from service.agents.contract import Rejected, Unacceptable
from service.agents.step_names import Names, prefix_of, running_step, within_step
from service.limits import MAX_STEP_NAME_CHARS


def test_what_has_no_name_is_numbered_within_its_step() -> None:
    names = Names()
    assert [names.claim("send", None) for _ in "12"] == ["send 1", "send 2"]
    assert names.claim("send", "send 4") == "send 4"
    assert [names.claim("send", None) for _ in "12"] == ["send 3", "send 5"]
    prefix, used = names.unnamed("send")
    assert (prefix, sorted(used)) == ("send", [1, 2, 3, 4, 5])
    with within_step("a"):
        assert (running_step(), prefix_of("b")) == ("a: ", "a: b: ")
        assert names.claim("send", None) == "a: send 1"
        with within_step("b"):
            assert names.claim("input", None) == "a: b: input 1"
        assert names.unnamed("send") == ("a: send", [1])
    assert (running_step(), names.unnamed("publish")) == ("", ("publish", []))


def test_one_without_a_name_takes_the_number_of_an_earlier_attempt() -> None:
    """Sends side by side may come in another order."""
    earlier = {"send 1": "b", "send 2": "a"}
    names = Names()

    def claim(content: str) -> str:
        return names.claim("send", None, lambda name: earlier[name] == content if name in earlier else None)

    assert [claim("a"), claim("b"), claim("new")] == ["send 2", "send 1", "send 3"]
    names = Names()
    with pytest.raises(
        Rejected, match="sends another message as 'send 1' than an earlier attempt did: make its content"
    ):
        claim("new")


def test_a_name_is_used_once_and_is_a_text_that_postgresql_accepts() -> None:
    names = Names()
    assert names.claim("step", "a\x00\ud800") == "a\ufffd\ufffd"
    assert names.claim("input", "a") == "a"
    assert names.claim("step", "a") == "a"  # kinds have names of their own
    with pytest.raises(ValueError, match="has already begun the step 'a': give each step its own name"):
        names.claim("step", "a")
    with pytest.raises(Rejected, match="asks another question as 'b'"):
        names.claim("input", "b", lambda _: False)
    for name in ("", "x" * (MAX_STEP_NAME_CHARS + 1)):
        with pytest.raises(Unacceptable, match="the name of a step has 1 to 200 characters"):
            names.claim("step", name)
