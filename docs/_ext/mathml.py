"""Formulas as MathML, which browsers draw themselves: no script and no network is needed."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

CONVERTER = LatexToMathML()


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(_converted(node, displaystyle=False))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula in lines of its own, with a number and an anchor if it has a label."""
    number = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    anchor = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    formula = _converted(node, displaystyle=True)
    translator.body.append(f'<div class="math"{anchor}>{number}{formula}</div>\n')
    raise nodes.SkipNode


def _converted(node: nodes.math | nodes.math_block, *, displaystyle: bool) -> str:
    """Return MathML; a formula that is wrong fails the build."""
    latex = node.astext()
    # Sphinx' other renderers align lines, too, that are given without an environment.
    if r"\\" in latex and r"\begin" not in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    return CONVERTER.convert_with_local_state(latex, displaystyle=displaystyle)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
