"""A table: one list of cells, and three writers that print the same digits."""

import json
import re
import shutil
import subprocess

import pandas as pd
import pytest

from reproduce_kit.core import KitError
from reproduce_kit.evaluation.metrics import TREC_EVAL_NAMES
from reproduce_kit.publish.trace import trace
from reproduce_kit.results.latex import latex_text, table_latex, write_table
from reproduce_kit.results.measure_columns import MEASURE_TITLES
from reproduce_kit.results.run_tables import add_mean
from reproduce_kit.results.table import Table, format_rate, mark_best


@pytest.fixture
def table():
    table = Table('demo', 'nDCG@10 ± deviation, 95 % interval.', ('Backbone', 'Optimizer'))
    column = ('rel≥1', 'MAP')
    table.add(('BM25 & co', ''), column, '0.4819', 0.4819, published='Table I, line 12')
    table.add(('MiniLM_L6', 'AdamW'), column, '0.5332', 0.5332, spread=0.01, letters='ab', run='a')
    table.add(('MiniLM_L6', 'Lion, 2×10⁻⁵'), column, '0.5332', 0.53315, run='b')
    table.add(('MiniLM_L6', 'gap'), column, '−0.052 [−0.077, +0.028]', -0.052, run='a, b')
    return table


def digits(text):
    return re.findall(r'\d\.\d{3,4}', text)


def test_all_writers_print_the_same_numbers(table):
    texts = ' '.join(cell.printed for cell in table.cells)
    assert digits(texts) == digits(table._repr_html_()) == digits(table_latex(table))
    assert sorted(digits(texts)) == sorted(digits(table.frame.to_string()))


def test_best_compares_what_is_printed_without_the_spread(table):
    mark_best(table, [('rel≥1', 'MAP')], set(table.rows[:3]))
    assert [cell.is_best for cell in table.cells] == [False, True, True, False]


def test_marking_changes_no_text(table):
    before = [cell.text for cell in table.cells]
    mark_best(table, [('rel≥1', 'MAP')], set(table.rows))
    assert [cell.text for cell in table.cells] == before


def test_html_escapes_and_shows_sources_and_marks(table):
    table.cells[1].is_best = True
    page = table._repr_html_()
    assert 'BM25 &amp; co' in page and "title='Table I, line 12'" in page
    assert '<b>0.5332<small>&thinsp;±0.010</small><sup>ab</sup></b>' in page
    assert page.count('MiniLM_L6<') == 1  # once for its group


def test_a_reader_of_a_notebook_or_a_page_sees_no_latex(table):
    for shown in (table._repr_html_(), repr(table)):
        assert not re.search(r'[\\$]', shown)


def test_json_keeps_its_keys(table, tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    made = json.loads(write_table(table, [], 'page').with_suffix('.json').read_text())
    assert {'file', 'notebook', 'commit', 'inputs', 'cells'} <= made.keys()
    keys = {'row', 'column', 'text', 'value', 'source'}
    assert all(keys <= cell.keys() for cell in made['cells'])
    assert made['cells'][1]['text'] == '0.5332 ±0.010^ab'


def test_a_cell_is_found_by_its_plain_label(table, tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_PAPER', str(tmp_path))
    path = write_table(table, [], 'page')
    (cell,) = trace(path, 'bm25 rel>=1')['cells']
    assert cell['check'] == 'quoted'


@pytest.mark.parametrize('character', '%_&#${}\\~^<>≥≤±×−→≈Δ–—“”‘’…')
def test_every_special_character_typesets(character):
    text = latex_text(f'a {character} b')
    assert text.isascii() and text != 'a  b'


def test_a_rate_has_its_exponent_in_latex():
    assert latex_text(format_rate(5e-6)) == '5$\\times$10$^{-6}$'


@pytest.mark.parametrize('is_long', [False, True])
def test_a_table_typesets(table, is_long, tmp_path):
    if not shutil.which('pdflatex'):
        pytest.skip('LaTeX is not installed')
    table.long = is_long
    body = table_latex(table)
    if not is_long:
        body = f'\\begin{{table}}{body}\\end{{table}}'
    text = (
        '\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage[utf8]{inputenc}'
        '\\usepackage{array,booktabs,longtable}\\begin{document}\n' + body + '\n\\end{document}\n'
    )
    (tmp_path / 'demo.tex').write_text(text)
    command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'demo.tex']
    process = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors='replace'
    )
    assert process.returncode == 0, process.stdout[-2000:]


def test_a_measure_that_a_finished_run_lacks_is_named_with_the_row():
    frame = pd.DataFrame({'nDCG@10': [0.5, 0.25]})
    with pytest.raises(
        KitError, match=r'MiniLM-L6 Lion 3: the run was finished before R\(rel=1\)@100'
    ):
        add_mean(Table('', ''), ('MiniLM-L6', 'Lion', '3'), 'R@100', (frame, {}), 'R(rel=1)@100')


def test_every_measure_has_a_title_in_the_tables():
    assert MEASURE_TITLES.keys() == TREC_EVAL_NAMES.keys()
