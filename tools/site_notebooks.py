"""Notebooks as pages of the site: hidden cells are dropped, links and names lead to other pages."""

import ast
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat
from docutils.nodes import make_id
from nbformat.v4 import new_markdown_cell
from readme import has_hidden_source, is_hidden, without_directives

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / 'nbs'
DOCS = ROOT / 'docs'
REPOSITORY = 'https://github.com/reproduce-kit/reproduce-kit/blob/main'
IMAGES = {'.png', '.svg'}
PAGES_OF_FILES = {  # files of the repository that are pages of the site under another name
    'nbs/index.ipynb': 'index.md',
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'CITATION.cff': 'cite.md',
    'nbs/tutorials/index.ipynb': 'tutorials.md',
}
# What they decorate stays a function or a class; a command is neither, and has a page of its own.
KEEPING_DECORATORS = {
    *('cache', 'contextmanager', 'dataclass', 'lru_cache', 'runtime_checkable'),
    *('once', 'one_reading'),  # the kit's
}
FENCES = re.compile(r'(^```.*?^```)', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A notebook."""

    path: Path
    module: str  # that it exports; '' if none
    cells: tuple  # without the hidden ones

    @property
    def name(self) -> str:
        """The page's address in the site, without suffix: `engines/20_lease`."""
        return self.path.relative_to(NOTEBOOKS).with_suffix('').as_posix()

    @property
    def room(self) -> str:
        return self.name.split('/')[0] if '/' in self.name else self.name.split('_')[1]

    @property
    def title(self) -> str:
        return self.cells[0].source.split('\n')[0].removeprefix('# ')

    @property
    def subtitle(self) -> str:
        """The quotation below the title, without its links."""
        quoted = re.findall(r'^> ?(.*)', self.cells[0].source, re.MULTILINE)
        return re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', ' '.join(quoted))

    @property
    def question(self) -> str:
        """The subtitle without the files that the page writes."""
        return re.sub(r' ?Written to .*', '', self.subtitle)

    @cached_property
    def definitions(self) -> list:
        """The public names that the API reference describes."""
        exported = (cell for cell in self.cells if is_export(cell))
        return [name for cell in exported for name in defined_names(cell)]


def is_export(cell) -> bool:
    return cell.cell_type == 'code' and cell.source.startswith('#| export')


def is_described(node) -> bool:
    """Tell whether a definition is in the API reference: public, documented, no command."""
    decorators = {ast.unparse(each).partition('(')[0] for each in node.decorator_list}
    return (
        not node.name.startswith('_')
        and decorators <= KEEPING_DECORATORS
        and ast.get_docstring(node) is not None
    )


def defined_names(cell) -> list:
    """Return the functions and classes of an export cell that the API reference describes."""
    return [
        node.name
        for node in ast.parse(without_directives(cell.source)).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_described(node)
    ]


def read_page(path: Path) -> Page:
    notebook = nbformat.read(path, as_version=4)
    exported = re.search(r'#\| default_exp (\S+)', '\n'.join(c.source for c in notebook.cells))
    return Page(
        path,
        f'reproduce_kit.{exported[1]}' if exported else '',
        tuple(cell for cell in notebook.cells if not is_hidden(cell)),
    )


@dataclass
class Site:
    """The pages of a site, and the files that its source consists of."""

    pages: list
    files: dict = field(default_factory=dict)  # {path in the source: text, or a file to copy}

    @cached_property
    def page_names(self) -> set:
        return {page.name for page in self.pages}

    @cached_property
    def full_names(self) -> dict:
        """{name: full name} of what the API reference describes, without ambiguous names."""
        count = Counter(name for page in self.pages for name in page.definitions)
        return {
            name: f'{page.module}.{name}'
            for page in self.pages
            for name in page.definitions
            if count[name] == 1
        }

    def of_folder(self, folder: str) -> list:
        """Return the pages of a folder of `nbs/`, in the order of their names."""
        return [page for page in self.pages if page.room == folder]

    def target(
        self,
        link: str,  # as the text has it
        folder: Path,  # of the repository, that the link starts from
        page: str,  # of the site, that will have the link
    ) -> str:
        """Return where a link leads in the site; what the site does not have is on GitHub."""
        if re.match(r'\w+:|#', link):
            return link
        file, _, anchor = link.partition('#')
        path = (folder / file).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            sys.exit(f'{page}: the link {link!r} leads to no file; correct it')
        name = path.relative_to(ROOT).as_posix()
        inside = self.place_in_site(path, name)
        if not inside:
            return f'{REPOSITORY}/{name}'
        relative = os.path.relpath(inside, Path(page).parent)
        return f'{relative}#{anchor}' if anchor else relative

    def place_in_site(self, path: Path, name: str) -> str:
        """Return the file of the site's source for a file of the repository; '' if it has none."""
        if name in PAGES_OF_FILES:
            return PAGES_OF_FILES[name]
        if path.parent == DOCS:
            return path.name
        notebook = name.removeprefix('nbs/')
        if notebook.removesuffix('.ipynb') in self.page_names:
            return notebook
        if path.suffix in IMAGES:
            self.files[name] = path
            return name
        return ''

    def prose(self, text: str, folder: Path, page: str, own: dict) -> str:
        """Return Markdown with links that lead through the site, and with linked names."""

        def link(match):
            return f']({self.target(match[1], folder, page)})'

        def name(match):
            is_clear = match[1] in own or re.search('[_A-Z]', match[1])
            full = (self.full_names | own).get(match[1]) if is_clear else None
            return f'{{py:obj}}`{match[1]} <{full}>`' if full else match[0]

        parts = FENCES.split(text)
        for i in range(0, len(parts), 2):  # the others are code
            lines = re.sub(r'\]\(([^)\s]+)\)', link, parts[i]).split('\n')
            parts[i] = '\n'.join(
                line
                if line.startswith('#')
                else re.sub(r'(?<![`\[\w}])`([A-Za-z_]\w*)`(?![`\]])', name, line)
                for line in lines
            )
        return ''.join(parts)


def anchor(name: str) -> str:
    """Return the anchor of a definition on its page; `Lion` and `lion` have different ones."""
    return make_id(f'{"class" if name[0].isupper() else "function"} {name}')


def name_cell(cell, page: Page):
    """Return the line above a definition: its anchor, and a link to the API reference."""
    names = defined_names(cell)
    links = ' '.join(f'{{py:obj}}`{name} <{page.module}.{name}>`' for name in names)
    text = f'{{#{anchor(names[0])} .kit-definition}}\n{links}'
    return new_markdown_cell(text, id=f'{cell.id}-name')


def tags(cell) -> list:
    """Return how myst-nb shows a cell: imports are folded, some cells have only an output."""
    if has_hidden_source(cell):
        return ['remove-input']
    return ['hide-input'] if has_only_imports(cell) else []


def has_only_imports(cell) -> bool:
    try:
        statements = ast.parse(without_directives(cell.source)).body
    except SyntaxError:  # a command of a shell
        return False
    return all(isinstance(each, (ast.Import, ast.ImportFrom)) for each in statements)


def page_cells(page: Page, site: Site):
    """Yield the cells of a page as the site shows them."""
    own = {name: f'{page.module}.{name}' for name in page.definitions}
    for cell in page.cells:
        if cell.cell_type != 'code':
            text = site.prose(cell.source, page.path.parent, page.name, own)
            yield new_markdown_cell(text, id=cell.id)
            continue
        if is_export(cell) and defined_names(cell):
            yield name_cell(cell, page)
        shown = nbformat.from_dict(cell)
        shown.metadata = {'tags': tags(cell)}
        shown.source = without_directives(cell.source)
        if shown.source or shown.outputs:
            yield shown


def rendered_notebook(page: Page, site: Site) -> str:
    """Return a page's notebook as the site shows it."""
    language = {'name': 'python', 'pygments_lexer': 'ipython3'}
    notebook = nbformat.v4.new_notebook(
        cells=list(page_cells(page, site)), metadata={'language_info': language}
    )
    return nbformat.writes(notebook)
