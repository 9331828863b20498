"""Render README.md from nbs/index.ipynb; `--check` fails when the committed README differs.

nbdev's own command needs quarto, which PyPI does not carry: here nbdev's processors clean the page and
nbconvert writes Markdown. Outputs are the ones stored in the notebook."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def render() -> str:
    nb = nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if '#| hide' not in c.source]
    for c in nb.cells:
        if c.cell_type != 'code':
            continue
        if '#| echo: false' in c.source:
            c.metadata['transient'] = {'remove_source': True}
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'\n{3,}', '\n\n', text.replace('](../', '](')).strip() + '\n'
    return '<!-- Rendered from nbs/index.ipynb by tools/readme.py; edit the notebook. -->\n' + text


if __name__ == '__main__':
    path, new = ROOT / 'README.md', render()
    if '--check' in sys.argv:
        if not path.exists() or path.read_text() != new:
            sys.exit('README.md differs from nbs/index.ipynb: run `make readme` and commit')
    else:
        path.write_text(new)
        print(f'wrote {path.name}')
