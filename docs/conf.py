"""The documentation site: `sphinx-build -W --keep-going -n docs docs/_build/html`."""

import sys
from pathlib import Path

from gradxform import __version__

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "_extensions")]

project = "gradxform"
author = "the gradxform developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "mathml",
    "notebooks",
    "pictures",
    "public_names",
]
exclude_patterns = ["_build", "_extensions"]

# The pages' Python blocks are run by the tests, and so are the notebooks that keep their outputs; those in
# Markdown are run by the build.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["notebooks/*.ipynb"]
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # what an argument is, the docstring says in words
default_role = "py:obj"  # names in single backticks lead to where they are described
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = "gradxform"
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0066a6", "color-brand-content": "#0066a6"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}
