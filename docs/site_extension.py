"""What Sphinx does not do by itself: comments of parameters, links to pages, formulas as MathML.

- The comment behind a parameter (`study: str,  # a folder of params/`) describes it in the
  reference.
- A function there has a link to the notebook that explains it, next to the link to its source.
- Formulas are MathML, which browsers draw without a script or a font from elsewhere."""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from fastcore.docments import docments
from pydantic import BaseModel
from site_notebooks import anchor
from sphinx import addnodes

# --- docstrings ---


def as_rest(text: str) -> str:
    """Return a sentence with `names` as reStructuredText."""
    parts = re.split(r'`+([^`]+)`+', text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'([*|_\\])', r'\\\1', parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f'\\ ``{parts[i].strip()}``\\ '
    return ''.join(parts)


def parameter_comments(described) -> dict:  # {parameter: comment}; 'return' is the returned value
    """Return what a function or class says of its parameters."""
    if is_model(described):
        return {name: field.description for name, field in described.model_fields.items()}
    try:
        return docments(described, returns=True)
    except (OSError, TypeError):  # without a source
        return {}


def is_model(described) -> bool:
    return isinstance(described, type) and issubclass(described, BaseModel)


def describe(app, what, name, described, options, lines):
    """Write a docstring as reStructuredText, with a line for each commented parameter."""
    if what == 'module':  # its page's title and subtitle are above it
        lines.clear()
        return
    lines[:] = [as_rest(line) for line in lines]
    if what in ('function', 'method', 'class'):
        comments = {key: text for key, text in parameter_comments(described).items() if text}
        returned = comments.pop('return', None)
        lines.append('')
        lines += [f':param {key}: {as_rest(one_line(text))}' for key, text in comments.items()]
        if returned:
            lines += [f':returns: {as_rest(one_line(returned))}']
        lines.append('')


def one_line(text: str) -> str:
    return ' '.join(text.split())


def leave_out(app, what, name, member, skip, options) -> bool | None:
    """Leave out what another package defines."""
    module = getattr(member, '__module__', None)
    return True if isinstance(module, str) and not module.startswith('reproduce_kit') else None


def shorten(app, what, name, described, options, signature, returned):
    """Leave out a model's signature: its validators have no readable form."""
    return ('', returned) if is_model(described) else None


# --- links to pages ---


def read_modules(app):
    """Read which notebook each module comes from."""
    path = Path(app.srcdir, 'modules.json')
    app.config.pages_of_modules = json.loads(path.read_text())


def link_pages(app, doctree):
    """Add a link to its page to each function and class of the API reference."""
    pages = app.config.pages_of_modules
    for signature in doctree.findall(addnodes.desc_signature):
        name, page = signature.get('fullname', ''), pages.get(signature.get('module'))
        if page and '.' not in name:
            address = app.builder.get_relative_uri(app.env.docname, page)
            label = nodes.inline('', '[page]', classes=['viewcode-link', 'kit-page-link'])
            signature += nodes.reference(
                '', '', label, internal=False, refuri=f'{address}#{anchor(name)}'
            )


def is_elsewhere(app, domain, node) -> bool | None:
    """Tell whether a name is private, or of a module that has no page here."""
    module, _, name = node.get('reftarget', '').rpartition('.')
    is_known = module in app.config.pages_of_modules and not name.startswith('_')
    return True if domain and domain.name == 'py' and not is_known else None  # None: warn


# --- for screen readers ---

PARAMETER_LIST = re.compile(r'\n\n<dl>\n(<dd><em class="sig-param">.*?)</dl>\n\n', re.DOTALL)
TOGGLE = '<summary><span class="toctree-toggle"'


def spans_for_parameters(match) -> str:
    """Return a list of parameters without `dd` elements, which would need a `dt`."""
    return match[1].replace('<dd>', '<span class="kit-parameter">').replace('</dd>', '</span>')


def name_what_has_no_name(app, page, template, context, doctree):
    """Make signatures and the toggles of the navigation readable to a screen reader."""
    if context.get('body'):
        context['body'] = PARAMETER_LIST.sub(spans_for_parameters, context['body'])
    if 'generate_toctree_html' in context:
        generate = context['generate_toctree_html']

        def generate_with_names(*args, **options):
            html = str(generate(*args, **options))
            return html.replace(TOGGLE, TOGGLE.replace('<summary', '<summary aria-label="Pages"'))

        context['generate_toctree_html'] = generate_with_names


# --- formulas ---


def visit_formula(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def visit_formula_block(translator, node):
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app):
    app.add_config_value('pages_of_modules', {}, '')
    app.connect('builder-inited', read_modules)
    app.connect('autodoc-skip-member', leave_out)
    app.connect('autodoc-process-docstring', describe)
    app.connect('autodoc-process-signature', shorten)
    app.connect('doctree-read', link_pages)
    app.connect('warn-missing-reference', is_elsewhere)
    app.connect('html-page-context', name_what_has_no_name, priority=900)  # after the theme
    app.add_html_math_renderer('mathml', (visit_formula, None), (visit_formula_block, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
