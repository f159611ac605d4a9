"""Sphinx' settings for these pages; `make docs` builds them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import dask_als
from dask_als.cli.main import cli

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "dask_als"
author = "the dask_als developers"
copyright = f"2026, {author}"
release = version = dask_als.__version__

extensions = [
    "mathml",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True
html_theme = "furo"
html_title = "dask_als"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
# A link to a file of the repository that is not a page is a mistake, not a download.
myst_all_links_external = False

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# The pages must work without a network: no scripts of others for widgets, which there are none of.
nb_ipywidgets_js = {}
html_math_renderer = "mathml"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

# `make linkcheck`, where there is a network.
linkcheck_anchors = False
linkcheck_timeout = 20

# Contexts that sphinx-click makes lack the group's setting that shows defaults.
for name in cli.list_commands(click.Context(cli)):
    for parameter in cli.get_command(click.Context(cli), name).params:
        has_default = isinstance(parameter.default, (str, float, int)) and not parameter.is_eager
        if isinstance(parameter, click.Option) and not parameter.is_flag and has_default:
            parameter.show_default = True
