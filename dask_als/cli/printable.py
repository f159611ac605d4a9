"""Make control characters visible in untrusted text before a terminal shows it."""

from __future__ import annotations

import unicodedata

# Bidirectional controls change the order in which text is displayed.
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# Unicode categories: control characters, surrogates, line and paragraph separators.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with control characters escaped, as in ``\x1b``.

    Parameters
    ----------
    keep : str, optional
        Control characters that are not escaped.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _written_out(letter) if letter not in keep and _controls(letter) else letter
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Escape control characters in a text of several lines; keep line ends and tabs."""
    return printable(text, keep="\n\t")


def _controls(letter: str) -> bool:
    return letter in _BIDIRECTIONAL or unicodedata.category(letter) in _CONTROLS


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
