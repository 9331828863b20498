"""The paper folder: real LaTeX, no typed numbers, macros that degrade."""

import csv
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from kit import papers_folder

PAPER = ROOT / 'paper'
PDFLATEX = ('pdflatex', '-interaction=nonstopmode', '-halt-on-error')

# Digits of the prose that are no results: references, names, percentages of an interval.
NOT_RESULTS = [
    r'\\(?:includegraphics|setlength|label|ref|cite|input|begin|(?:sub)?section|bibliography)\*?(?:\[[^\]]*\])?(?:\{[^}]*\})*(?:\[[^\]]*\])?',
    r'(?<!\\)%.*',
    r'\d+\\,\\%|3pt|grade~\d|Table~I+|Figure~\d',
    r'BM25|k_1|MRR@10|nDCG@10|RQ\d',
    r'April 2025|arXiv v1|2506\.18297|all-MiniLM-L6-v2',
    r'\\ln 2|\\newcommand\S*|\\texttt\{[^}]*\}|numbers\.tex|tables/table1\.tex',
]


def prose():
    """The text of the paper and of its studies."""
    main = (PAPER / 'main.tex').read_text().split('\\begin{document}')[1]
    studies = sorted((PAPER / 'studies').glob('*.tex'))
    return main + ''.join(path.read_text() for path in studies)


def copy_paper(folder, empty_kit):
    ignored = shutil.ignore_patterns('build', 'main.pdf')
    shutil.copytree(PAPER, folder / 'paper', symlinks=False, ignore=ignored)
    if empty_kit:
        (folder / 'paper/kit.sty').write_text('')


@pytest.mark.parametrize('empty_kit, where', [(False, 'paper'), (True, 'paper'), (True, '.')])
def test_committed_paper_typesets(tmp_path, empty_kit, where):
    if not shutil.which('pdflatex'):
        pytest.skip('LaTeX is not installed; `make reproduce` installs it if it can')
    copy_paper(tmp_path, empty_kit)
    main = 'main.tex' if where == 'paper' else 'paper/main.tex'
    process = subprocess.run(
        [*PDFLATEX, main],
        cwd=tmp_path / where,
        capture_output=True,
        text=True,
        errors='replace',
    )
    assert process.returncode == 0, process.stdout[-2000:]
    assert (tmp_path / where / 'main.pdf').stat().st_size > 50_000


def test_no_number_is_typed_in_the_prose():
    text = prose()
    for pattern in NOT_RESULTS:
        text = re.sub(pattern, ' ', text)
    assert not re.findall(r'\d', text), re.findall(r'.{20}\d.{20}', text)


def test_every_macro_is_generated():
    files = [PAPER / 'main.tex', *(PAPER / 'studies').glob('*.tex')]
    used = {name for file in files for name in re.findall(r'\\(kit[A-Z]\w*)', file.read_text())}
    generated = re.findall(
        r'\\newcommand\{\\(kit\w+)\}',
        ''.join(path.read_text() for path in PAPER.glob('*numbers.tex')),
    )
    assert used <= set(generated), used - set(generated)


@pytest.mark.parametrize(
    'name, columns',
    [
        (
            'table1',
            ['nDCG@10', 'AP(rel=1)', 'mrr10_qa_v11', 'R(rel=1)@10', 'Rprec(rel=1)', 'P(rel=1)@10'],
        ),
        ('table2', ['nDCG@10']),
    ],
)
def test_published_numbers_are_typed_right(name, columns):
    """Each number of the CSV occurs in the line of the stored paper text that it names."""
    lines = (papers_folder() / 'lion-vs-adamw-paper.txt').read_text().split('\n')
    with open(ROOT / f'params/lion-vs-adamw/published/{name}.csv') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        number = int(re.search(r'line (\d+)', row['source'])[1])
        line = lines[number - 1]
        assert all(row[column] in line for column in columns), (row, line)
