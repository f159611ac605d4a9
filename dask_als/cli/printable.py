"""Text of others, as a terminal may show it: what would control the terminal is made visible."""

from __future__ import annotations

import unicodedata

# They let a text read as another one, right to left or in another order.
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# Control characters, halves of characters, and what ends a line or a paragraph.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with its control characters written out, as in ``\x1b``.

    Parameters
    ----------
    keep : str, optional
        Control characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _written_out(letter) if letter not in keep and _controls(letter) else letter
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Return the same for a text of several lines."""
    return printable(text, keep="\n\t")


def _controls(letter: str) -> bool:
    return letter in _BIDIRECTIONAL or unicodedata.category(letter) in _CONTROLS


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
