"""A quantity in prose is accounted for: who measured it where and when, or why it is none of ours."""

import csv
import json
import re

import pytest
from conftest import ROOT

ACCOUNT = ROOT / 'docs/quantities.csv'
KINDS = ('measured', 'computed', 'cited', 'chosen')
TIMES = 'seconds?|minutes?|hours?|GPU hours?|days?'
UNITS = f'ms|s|min|h|%|per cent|percent|kB|KiB|MB|MiB|GB|GiB|dollars?|cents?|times|{TIMES}'
IN_WORDS = 'two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty|forty'
QUANTITY = re.compile(
    rf'\$\d[\d,.]*\d|(?<![\w.])\d[\d,.]*[ -]?(?:{UNITS})(?![\w/])|\b(?:{IN_WORDS}) (?:{TIMES})\b',
    re.IGNORECASE,
)


def prose(path) -> list:
    """The text of a page that was typed, not computed."""
    if path.suffix == '.md':
        return [path.read_text()]
    cells = json.loads(path.read_text())['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown']


def pages() -> list:
    """The pages of the site; the README is rendered from one of them."""
    return sorted([*ROOT.glob('docs/*.md'), *(ROOT / 'nbs').rglob('*.ipynb')])


def quantities(path) -> list:
    """Each quantity of a page's prose, with the words around it."""
    found = []
    for text in prose(path):
        for match in QUANTITY.finditer(text):
            found.append((match[0], text[max(0, match.start() - 60) : match.end() + 60]))
    return found


def account() -> dict:
    """{page: its rows of the account}"""
    rows = {}
    with ACCOUNT.open(newline='') as file:
        for row in csv.DictReader(file):
            rows.setdefault(row['page'], []).append(row)
    return rows


NAMES = [path.relative_to(ROOT).as_posix() for path in pages() if quantities(path)]


@pytest.mark.parametrize('name', NAMES)
def test_each_quantity_of_a_page_is_accounted_for(name):
    known = [row['words'] for row in account().get(name, [])]
    for quantity, around in quantities(ROOT / name):
        assert any(quantity in words and words in around for words in known), (
            f'{name}: {quantity!r} in {around!r}; add its words to docs/quantities.csv'
        )


def test_the_account_has_nothing_that_no_page_says():
    for name, rows in account().items():
        text = '\n'.join(prose(ROOT / name))
        missing = [row['words'] for row in rows if row['words'] not in text]
        assert not missing, f'{name}: {missing}'


def test_what_was_measured_names_the_file_or_the_machine_and_the_day():
    for rows in account().values():
        for row in rows:
            assert row['kind'] in KINDS and row['origin'], row
            if row['kind'] == 'measured' and not (ROOT / row['origin']).exists():
                assert row['machine'] and re.fullmatch(r'20\d\d-\d\d-\d\d', row['date']), row
