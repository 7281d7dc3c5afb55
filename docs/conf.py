"""How Sphinx makes the site: `.ci/docs` runs it, CONTRIBUTING.md says how by hand."""

import os
import re
import sys
from pathlib import Path

import dnmf

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))  # gallery_pictures

project = "dnmf"
author = "the dnmf developers"
project_copyright = f"%Y, {author}"
version = release = dnmf.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["gallery/**/*.ipynb", "gallery/**/*.py"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

default_role = "py:obj"  # `fit` in a docstring leads to NMF.fit
autodoc_typehints = "none"  # docstrings say the types
numpydoc_show_class_members = False  # the template of classes does
numpydoc_validation_checks = {
    *("GL03", "SS01", "SS03", "SS04", "SS05"),  # a summary: one sentence, no blank lines too many
    *("PR01", "PR02", "PR03", "PR07"),  # all parameters, in order, each with a description
    *("RT01", "RT03"),  # what is returned, with a description
}
numpydoc_validation_exclude = {  # classes that users do not make
    r"^dnmf\.Corpus$",
    r"^dnmf\.(errors|io|numerics|solvers)\.",
    r"^dnmf\.model_selection\.\w+\.\w+$",
    r"^dnmf\.storage\.\w+\.\w+$",
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "download_all_examples": False,
    "filename_pattern": "",  # all are run
    "ignore_pattern": r"jobqueue\.py$",  # needs a batch system
    "within_subsection_order": "gallery_pictures.place",
    "image_scrapers": ("gallery_pictures.save_pictures",),
    "ignore_repr_types": "matplotlib",  # the picture is shown
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
}

smartquotes = False  # "auto" is a word of Python
html_theme = "pydata_sphinx_theme"
html_title = "dnmf"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_sidebars = {"index": []}
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": "dnmf"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}

PAGES_OF_FILES = {
    "README.md": "index.md",
    "CHANGELOG.md": "develop/changelog.md",
    "CONTRIBUTING.md": "develop/contributing.md",
    "deploy/kubernetes/README.md": "howto/kubernetes-files.md",
    "deploy/slurm/README.md": "howto/slurm-files.md",
}
"""Pages of the site that include a file which stands elsewhere in the repository."""


def link_to_pages(app, docname, source):
    """Let links to files outside `docs/` lead to the pages that include them."""
    folder = (ROOT / "docs" / docname).parent

    def page(link):
        target = os.path.relpath(os.path.normpath(folder / link[1]), ROOT)
        if target not in PAGES_OF_FILES:
            return link[0]
        return f"]({os.path.relpath(ROOT / 'docs' / PAGES_OF_FILES[target], folder)}"

    source[0] = re.sub(r"\]\(([^)#\s:]+)", page, source[0])


def skip_methods_of_sklearn(app, what, name, obj, skip, options):
    """Leave to scikit-learn's reference what its estimators have anyway."""
    return (getattr(obj, "__module__", None) or "").startswith("sklearn.") or skip


def keep_stars(app, context, lines):
    """Keep the stars of patterns in help texts, which begin emphasis otherwise."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app):
    """Register what Sphinx calls."""
    app.connect("sphinx-click-process-description", keep_stars)
    app.connect("autodoc-skip-member", skip_methods_of_sklearn)
    app.connect("source-read", link_to_pages)
