"""How Sphinx builds these pages; ``make docs`` runs it. No network and no model are needed."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygments.lexers.shell import BashLexer

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

import llm2bids

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "llm2bids"
author = "llm2bids contributors"
release = version = llm2bids.__version__

extensions = [
    "commands",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",  # for the role autolink
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "autolink"  # a name in backquotes is a link where it is one of ours
highlight_language = "none"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # the docstrings say it
autodoc_default_options = {"no-value": True}
autosummary_generate = False
napoleon_google_docstring = False
napoleon_use_param = False  # else each word of a type, such as n_scans, is taken for a name
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"llm2bids {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "source_repository": "https://github.com/llm2bids/llm2bids",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_ignore = [r"https://github\.com/llm2bids/.*"]  # not public yet


def resolve_elsewhere(app: Sphinx, env: BuildEnvironment, node: Element, content: Element) -> Element | None:
    """Link a name to where it is defined, also one that a package passes on, or that stands bare in its own module.

    Bare names that are no module's are parameters and fields: they stay text. A full name that does not exist stays a
    warning.
    """
    if node.get("refdomain") != "py":
        return None
    name = str(node["reftarget"])
    target = where_defined(name if name.startswith("llm2bids.") else f"{node.get('py:module')}.{name}")
    link = target and env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
    return link or (None if name.startswith("llm2bids.") else content)


def where_defined(name: str) -> str:
    """The full name of a function or class that is called so somewhere; nothing if it is none of ours."""
    module, _, last = name.rpartition(".")
    try:
        thing: Any = getattr(import_module(module), last)
    except (ImportError, AttributeError, ValueError):
        return ""
    full = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    return full if full.startswith("llm2bids.") else ""


def write_api(app: Sphinx) -> None:
    """Write one page per package with all its public modules: so few pages are built in seconds, and found by eye."""
    folder = Path(app.srcdir) / "api" / "generated"
    folder.mkdir(exist_ok=True, parents=True)
    for top in pkgutil.iter_modules(llm2bids.__path__, "llm2bids."):
        if top.name.rpartition(".")[2].startswith("_"):
            continue
        lines = [top.name, "=" * len(top.name), "", *documented(top.name)]
        inside = pkgutil.iter_modules(import_module(top.name).__path__, f"{top.name}.") if top.ispkg else ()
        for module in inside:
            if not module.name.rpartition(".")[2].startswith("_"):
                lines += [module.name, "-" * len(module.name), "", *documented(module.name)]
        page = folder / f"{top.name}.rst"
        text = "\n".join(lines)
        if not page.exists() or page.read_text() != text:  # else every build would read them all anew
            page.write_text(text)


def documented(module: str) -> list[str]:
    """What asks Sphinx for the docstrings of a module, and of no name that it has from elsewhere."""
    return [f".. automodule:: {module}", "   :members:", "   :ignore-module-all:", ""]


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    app.add_lexer("fsl", BashLexer)  # examples mark so what needs FSL
    app.connect("builder-inited", write_api)
    app.connect("missing-reference", resolve_elsewhere)
