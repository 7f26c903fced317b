"""Text of others for a terminal: without characters that would move its cursor, change its colours or hide text."""

_LINE_BREAKS_AND_TABS = frozenset("\n\t")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029]
_VISIBLE: dict[int, str | None] = {code: f"\\u{code:04x}" for code in _CONTROLS}  # as JSON writes them


def visible(text: str) -> str:
    """The text in lines, with every other control character written out."""
    return text.replace("\r\n", "\n").translate(_LINES)


def visible_line(text: str) -> str:
    """The same on one line."""
    return text.translate(_VISIBLE)


_LINES = {code: written for code, written in _VISIBLE.items() if chr(code) not in _LINE_BREAKS_AND_TABS}
