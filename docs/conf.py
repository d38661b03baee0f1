"""The pages as a site: `make docs`. Nothing is fetched, neither while it is built nor by what reads it."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lissome import __version__  # noqa: E402

project = "Lissome"
author = "the authors of Lissome"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "docs._ext.site"]
exclude_patterns = ["_build", "_ext"]

smartquotes_action = "D"  # dashes alone: quotes stay what is typed
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 4

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
# what a machine lacks is no reason to lack a page
OPTIONAL = ("lm_eval", "peft", "transformers")
autodoc_mock_imports = [name for name in OPTIONAL if not importlib.util.find_spec(name)]
napoleon_use_ivar = True
napoleon_use_rtype = False

nitpicky = True
nitpick_ignore_regex = [
    ("py:class", ".*"),  # annotations name private types and those of other libraries: pyright reads them
    ("py:exc", r"(?!lissome\.).*"),
]

html_theme = "furo"
html_title = f"Lissome {version}"
html_static_path = ["_static"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    f"{shade}_css_variables": {f"color-brand-{part}": colour for part in ("primary", "content", "visited")}
    for shade, colour in (("light", "#005a8e"), ("dark", "#7cc4f0"))  # those of a run's page
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
