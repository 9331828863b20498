"""What a formatter cannot see: how pages are cut, how long things are, what is stored in them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(
    p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts
)
PAGES = [p for p in NOTEBOOKS if p.parent.name not in ('experiments', 'analysis', 'tutorials')]
SCRIPTS = sorted([*(ROOT / 'tests').rglob('*.py'), *(ROOT / 'tools').glob('*.py')])
SMALL_HELPER_LINES = 5


def cells(path):
    return json.loads(path.read_text())['cells']


def source(cell) -> str:
    return ''.join(cell['source'])


def is_export(cell) -> bool:
    return cell['cell_type'] == 'code' and source(cell).startswith('#| export')


def parse(text):
    try:
        return ast.parse(text)
    except SyntaxError:  # a cell of shell commands
        return ast.parse('')


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('command', [['format', '--check'], ['check']], ids=['format', 'lint'])
def test_ruff_is_content(command):
    p = subprocess.run([BIN / 'ruff', *command, '.'], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-4000:]


def test_a_module_imports_nothing_for_its_examples_alone():
    """ruff reads a page as a whole; the exported module must use what it imports."""
    command = ['check', '--isolated', '--select', 'F401', '--exclude', '__init__.py']
    p = subprocess.run(
        [BIN / 'ruff', *command, 'reproduce_kit'], cwd=ROOT, capture_output=True, text=True
    )
    assert p.returncode == 0, p.stdout[-4000:]


@pytest.mark.parametrize('path', PAGES, ids=relative)
def test_a_cell_defines_one_public_thing(path):
    for cell in filter(is_export, cells(path)):
        definitions = [
            node
            for node in parse(source(cell)).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        big = [
            node.name
            for node in definitions
            if not node.name.startswith('_')
            or node.end_lineno - node.lineno + 1 > SMALL_HELPER_LINES
        ]
        public = [name for name in big if not name.startswith('_')]
        assert len(public) <= 1, public


@pytest.mark.parametrize('path', PAGES, ids=relative)
def test_at_most_two_export_cells_in_a_row(path):
    row = 0
    for cell in cells(path)[2:]:
        row = row + 1 if is_export(cell) else 0
        assert row <= 2, source(cell)[:200]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=relative)
def test_stored_outputs_are_part_of_the_page(path):
    """No progress bar, widget, warning, or path of the machine that executed the page."""
    outputs = [cell.get('outputs', []) for cell in cells(path)]
    stored = re.sub(r'"image/png": "[^"]*"', '', json.dumps(outputs))
    pattern = (
        r'%\||\dit/s|jupyter\.widget|\.py:\d+: \w*Warning'
        r'|(?<![\w.~])/(?:tmp|root|home|work|Users)/\S*'
    )
    found = re.findall(pattern, stored)
    assert not found, found[:3]


def test_no_two_statements_share_a_line():
    joined = []
    for path in [*NOTEBOOKS, *SCRIPTS]:
        texts = [path.read_text()] if path.suffix == '.py' else map(source, code_cells(path))
        for text in texts:
            for node in ast.walk(parse(text)):
                for block in ('body', 'orelse', 'finalbody'):
                    statements = getattr(node, block, None)
                    lines = [s.lineno for s in statements] if isinstance(statements, list) else []
                    if len(set(lines)) < len(lines):
                        joined.append(relative(path))
    assert not joined


def code_cells(path):
    return [cell for cell in cells(path) if cell['cell_type'] == 'code']


def all_lines():
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            yield from ((relative(path), line) for line in source(cell).splitlines())
    for path in SCRIPTS:
        yield from ((relative(path), line) for line in path.read_text().splitlines())


def test_few_lines_are_long():
    long = [(path, line) for path, line in all_lines() if len(line) > 100]
    assert len(long) <= 30, (len(long), long[:5])


def test_modules_are_short():
    lengths = {
        relative(path): len(path.read_text().splitlines())
        for path in (ROOT / 'reproduce_kit').rglob('*.py')
        if not path.name.startswith('_')
    }
    long = {path: length for path, length in lengths.items() if length > 400}
    assert not long


def test_nine_of_ten_export_cells_fit_on_a_screen():
    lengths = sorted(
        len(source(cell).splitlines()) for path in PAGES for cell in filter(is_export, cells(path))
    )
    assert lengths[int(0.9 * len(lengths))] <= 30


def exported_trees():
    return [
        ast.parse(path.read_text())
        for path in (ROOT / 'reproduce_kit').rglob('*.py')
        if not path.name.startswith('_')
    ]


def test_few_names_have_one_letter():
    names = [
        node.id if isinstance(node, ast.Name) else node.arg
        for tree in exported_trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.arg)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    ]
    single = [name for name in names if len(name) == 1]
    assert len(single) / len(names) <= 0.15


MOST_STRING_SUBSCRIPTS = 300  # lower it with every row that becomes a type


def test_few_values_are_found_by_string_subscripts():
    count = sum(
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        for tree in exported_trees()
        for node in ast.walk(tree)
    )
    assert count <= MOST_STRING_SUBSCRIPTS
