"""Render README.md from nbs/index.ipynb; `--check` fails if the committed README differs.

nbdev's own command needs quarto, which PyPI does not carry. Here nbconvert writes the Markdown;
outputs are the ones stored in the notebook."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
HEAD = '<!-- Rendered from nbs/index.ipynb by tools/readme.py; edit the notebook. -->\n'


def is_hidden(cell) -> bool:
    return '#| hide' in cell.source


def has_hidden_source(cell) -> bool:
    return '#| echo: false' in cell.source


def without_directives(source: str) -> str:
    """Return the source of a cell without the lines that are written for nbdev."""
    return re.sub(r'^#\|.*\n?', '', source, flags=re.M)


def render() -> str:
    """Return the README: the cells of the index that are not hidden, as Markdown."""
    notebook = nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not is_hidden(cell)]
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.metadata['transient'] = {'remove_source': has_hidden_source(cell)}
            cell.source = without_directives(cell.source)
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = text.replace('](../', '](')  # links are relative to nbs/ there, to the clone here
    return HEAD + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def main(check: bool):
    path, text = ROOT / 'README.md', render()
    if not check:
        path.write_text(text)
        print(f'wrote {path.name}')
    elif not path.exists() or path.read_text() != text:
        sys.exit('README.md differs from nbs/index.ipynb: run `make readme` and commit')


if __name__ == '__main__':
    main(check='--check' in sys.argv)
