"""Sphinx's configuration of the site. `tools/docs.py` writes the pages and calls Sphinx."""

import sys
from pathlib import Path

import reproduce_kit

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / 'tools')]  # for the extension

project = 'reproduce-kit'
author = 'reproduce-kit team'
copyright = '2026 onwards, reproduce-kit team'  # noqa: A001  Sphinx's name
version = release = reproduce_kit.__version__

extensions = [
    'myst_nb',
    'sphinx_design',
    'sphinx.ext.autodoc',
    'sphinx.ext.viewcode',
    'site_extension',
]

# Notebooks keep the outputs that are stored in them.
nb_execution_mode = 'off'
nb_code_prompt_show = 'Imports'
nb_code_prompt_hide = 'Hide imports'
nb_ipywidgets_js = {}  # scripts of a content delivery network
myst_enable_extensions = ['attrs_block', 'colon_fence', 'deflist', 'dollarmath']
myst_dmath_allow_digits = False  # "$0.89/hour" is no formula
myst_heading_anchors = 3

# The API reference.
autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False
autodoc_typehints_format = 'short'
autodoc_default_options = {'exclude-members': 'model_config'}
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = 'hide'

# Everything is read from files of the site.
html_math_renderer = 'mathml'
html_theme = 'pydata_sphinx_theme'
html_title = 'reproduce-kit'
html_static_path = ['_static']
html_css_files = ['kit.css']
html_js_files = ['offline.js']
html_copy_source = False
html_show_sourcelink = False
html_context = {'default_mode': 'auto'}  # light or dark, as the reader's system is
ALONE = (
    'index',
    'search',
    'genindex',
    'py-modindex',
    'scoreboards',
    'glossary',
    'changelog',
    'cite',
)
html_sidebars = {page: [] for page in ALONE}
html_theme_options = {
    'logo': {'text': 'reproduce-kit'},
    'icon_links': [
        {
            'name': 'GitHub',
            'url': 'https://github.com/reproduce-kit/reproduce-kit',
            'icon': 'fa-brands fa-github',
        }
    ],
    'header_links_before_dropdown': 8,
    'navbar_align': 'left',
    'show_nav_level': 1,
    'show_toc_level': 1,
    'secondary_sidebar_items': ['page-toc'],
    'footer_start': ['copyright'],
    'footer_end': [],
    'navigation_with_keys': False,
    'search_as_you_type': True,
}
