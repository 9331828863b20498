"""The kit knows no paper: names of one occur only where that paper's own things are."""

import ast

from conftest import ROOT

# Names of studies, models, authors and texts; not architectures that the kit implements or reads.
NAMES = (
    'lion-vs-adamw',
    'lion_vs_adamw',
    'skfrost',
    'kumar',
    'minilm-l12',
    'gte-multilingual',
    'modernbert-base',
    'thesis',
    'raw outputs',
)
# What belongs to one paper, and nbdev's list of all pages.
SKIPPED = ('studies', '_modidx.py')
LIBRARY = [
    path
    for path in sorted((ROOT / 'reproduce_kit').rglob('*.py'))
    if not set(path.relative_to(ROOT / 'reproduce_kit').parts) & set(SKIPPED)
]


def prose(tree) -> set:
    """Docstrings, and the examples and help texts of commands: they name a study to show one."""
    texts = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            texts.add(ast.get_docstring(node, clean=False))
        if isinstance(node, ast.keyword) and node.arg in ('epilog', 'help', 'description'):
            texts |= {part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
    return texts


def words(tree):
    """Every name and every text of a module, but for its prose."""
    skipped = prose(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value not in skipped:
                yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ''
        elif isinstance(node, ast.keyword):
            yield node.arg or ''


def test_the_library_names_no_paper():
    found = {
        (path.name, name, word)
        for path in LIBRARY
        for word in words(ast.parse(path.read_text('utf-8')))
        for name in NAMES
        if name in word.lower()
    }
    assert not found
