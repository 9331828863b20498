"""The paper folder: real LaTeX, no typed numbers, macros that degrade."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from kit import papers_folder

PAPER = ROOT / 'paper'


def copy(tmp_path, empty_kit=False):
    shutil.copytree(
        PAPER,
        tmp_path / 'paper',
        symlinks=False,
        ignore=shutil.ignore_patterns('build', 'main.pdf'),
    )
    if empty_kit:
        (tmp_path / 'paper/kit.sty').write_text('')
    return tmp_path


@pytest.mark.parametrize('empty_kit, where', [(False, 'paper'), (True, 'paper'), (True, '.')])
def test_committed_paper_typesets(tmp_path, empty_kit, where):
    if not shutil.which('pdflatex'):
        pytest.skip('LaTeX is not installed; `make reproduce` installs it where it may')
    base = copy(tmp_path, empty_kit)
    p = subprocess.run(
        [
            'pdflatex',
            '-interaction=nonstopmode',
            '-halt-on-error',
            'main.tex' if where == 'paper' else 'paper/main.tex',
        ],
        cwd=base / where,
        capture_output=True,
        text=True,
        errors='replace',
    )
    assert p.returncode == 0, p.stdout[-2000:]
    assert (base / where / 'main.pdf').stat().st_size > 50_000


def test_no_number_is_typed_in_the_prose():
    text = (PAPER / 'main.tex').read_text().split('\\begin{document}')[1] + ''.join(
        p.read_text() for p in sorted((PAPER / 'studies').glob('*.tex'))
    )
    text = re.sub(
        r'\\(?:includegraphics|setlength|label|ref|input|begin|section)\*?(?:\[[^\]]*\])?(?:\{[^}]*\})*(?:\[[^\]]*\])?',
        ' ',
        text,
    )
    text = re.sub(
        r'(?<!\\)%.*|\d+\\,\\%|3pt|BM25|k_1|MRR@10|\\newcommand\S*|nDCG@10|grade~\d|Table~I+|Figure~\d|numbers\.tex|tables/table1\.tex|\\texttt\{[^}]*\}',
        ' ',
        text,
    )
    assert not re.findall(r'\d', text), re.findall(r'.{20}\d.{20}', text)


def test_every_macro_is_generated():
    used = set(
        re.findall(
            r'\\(kit[A-Z]\w*)',
            ''.join(
                p.read_text() for p in [PAPER / 'main.tex', *(PAPER / 'studies').glob('*.tex')]
            ),
        )
    )
    made = set(re.findall(r'\\newcommand\{\\(kit\w+)\}', (PAPER / 'numbers.tex').read_text()))
    assert used <= made, used - made


def test_published_numbers_are_typed_right():
    """reference/*.csv against the stored text of the paper."""
    import csv

    path = papers_folder() / 'lion-vs-adamw-paper.txt'
    lines = path.read_text().split('\n')
    for name, columns in (
        (
            'table1',
            ['nDCG@10', 'AP(rel=1)', 'mrr10_qa_v11', 'R(rel=1)@10', 'Rprec(rel=1)', 'P(rel=1)@10'],
        ),
        ('table2', ['nDCG@10']),
    ):
        for row in csv.DictReader(open(ROOT / f'params/lion-vs-adamw/published/{name}.csv')):
            line = lines[int(re.search(r'line (\d+)', row['source'])[1]) - 1]
            assert all(row[c] in line for c in columns), (row, line)
