"""Rooms import one way: a module uses its own room and the rooms before it, never a later one."""

import ast
import csv
import re

import pytest
from conftest import ROOT

from reproduce_kit.config.released import RELEASED

# Rooms on one line do not import each other.
ORDER = [
    {'core'},
    {'config'},
    {'data', 'store'},
    {'models'},
    {'evaluation'},
    {'training'},
    {'speed'},
    {'engines', 'results'},
    {'verdicts'},
    {'studies'},
    {'publish'},
    {'doors'},
    {'testing'},
    {'cli'},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LIBRARY = ROOT / 'reproduce_kit'
MODULES = sorted(p for p in LIBRARY.rglob('*.py') if not p.name.startswith('_'))


def room_of(module: str) -> str:
    return module.split('.')[1]


def imported_modules(path) -> set:
    """Absolute names of the kit's modules that a file imports, late imports too."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add('.'.join([*base, *([node.module] if node.module else [])]))
    return {name for name in names if name.startswith('reproduce_kit.')}


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_module_imports_only_earlier_rooms(path):
    room = path.relative_to(LIBRARY).parts[0].removesuffix('.py')
    for module in imported_modules(path):
        other = room_of(module)
        assert other == room or LEVEL[other] < LEVEL[room], f'{room} imports {module}'


@pytest.mark.parametrize('room', sorted(LEVEL.keys() - {'core'}))
def test_modules_of_a_room_import_each_other_without_a_circle(room):
    graph = {}
    for path in (LIBRARY / room).rglob('*.py'):
        if path.name.startswith('_'):
            continue
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        graph[name] = {m for m in imported_modules(path) if room_of(m) == room}
    done, doing = set(), []

    def visit(module):
        assert module not in doing, ' -> '.join([*doing, module])
        if module in done or module not in graph:
            return
        doing.append(module)
        for other in graph[module]:
            visit(other)
        done.add(doing.pop())

    for module in graph:
        visit(module)


def test_every_notebook_of_a_room_exports_a_module_of_that_room():
    for path in (ROOT / 'nbs').rglob('*.ipynb'):
        folder = path.parent.relative_to(ROOT / 'nbs')
        if folder.parts and folder.parts[0] in LEVEL and '.ipynb_checkpoints' not in path.parts:
            wanted = '.'.join([*folder.parts, path.stem.split('_', 1)[1]])
            assert f'#| default_exp {wanted}"' in path.read_text(), f'{path}: expected {wanted}'


# The kit knows no paper

PAPERLESS_ROOMS = ('evaluation', 'results', 'verdicts')
COLUMNS_OF_NAMES = {
    'models': ('backbone', 'model'),
    'recipes': ('recipe',),
    'sources': ('title',),
}
NAMES_THAT_STAY = {
    ('evaluation/dense.py', 'tite'): 'TITE is also an architecture of the kit, in `models`',
}


def published_names() -> set:
    """What belongs to one study: its name, its models, its recipes, titles of its tables."""
    names = {'Table I'}  # as its sources print it
    for folder in (ROOT / 'params').glob('*/published'):
        names.add(folder.parent.name)
        for file, columns in COLUMNS_OF_NAMES.items():
            path = folder / f'{file}.csv'
            rows = csv.DictReader(path.open(encoding='utf-8')) if path.exists() else []
            names |= {row[column] for row in rows for column in columns}
    return names - {RELEASED}  # a recipe of the kit's own


def names_in(path) -> set:
    text = path.read_text()
    return {
        name for name in published_names() if re.search(rf'(?<!\w){re.escape(name)}(?!\w)', text)
    }


def test_the_names_of_a_study_are_read_from_its_data():
    assert {'lion-vs-adamw', 'tite', 'ModernBERT', 'as-run', 'Table I'} <= published_names()


@pytest.mark.parametrize(
    'path',
    [path for path in MODULES if path.relative_to(LIBRARY).parts[0] in PAPERLESS_ROOMS],
    ids=lambda path: str(path.relative_to(LIBRARY)),
)
def test_a_module_of_the_kit_names_no_study(path):
    stay = {name for file, name in NAMES_THAT_STAY if LIBRARY / file == path}
    assert names_in(path) - stay == set()


def test_every_name_that_stays_is_still_there():
    for file, name in NAMES_THAT_STAY:
        assert name in names_in(LIBRARY / file)
