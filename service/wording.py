"""Words in sentences for people."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 message`, `2 messages`. `many`: the plural, where it does not end in s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
