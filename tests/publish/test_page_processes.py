"""Pages in copies of one process: what they show, what stops them, what they read again."""

import multiprocessing.util
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64decode

import matplotlib
import nbformat
import pandas as pd
import pytest
from conftest import ROOT
from kit import SMOKE
from matplotlib import pyplot as plt

import reproduce_kit.publish.pages as pages
from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError
from reproduce_kit.engines.papermill import execute_notebook
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.page_processes import execute_pages
from reproduce_kit.testing.fake_runs import fake_run

SHOWN = (
    'print(f"{study} is shown")',
    'import pandas as pd\npd.DataFrame(dict(lion=[0.25, 0.5]))',
    'import matplotlib.pyplot as plt\nplt.plot([1, 2], [1, 4])\nplt.title(study);',
    'from IPython.display import HTML, display\ndisplay(HTML("<b>bold</b>"))\n2 + 2',
)


def write_page(folder, name, *sources):
    """Write a page with the parameters of every analysis page."""
    tags = dict(tags=['parameters'])
    parameters = nbformat.v4.new_code_cell("study: str = 'none'\nrecipe: str = ''", metadata=tags)
    cells = [parameters, *map(nbformat.v4.new_code_cell, sources)]
    kernel = dict(name='python3', language='python', display_name='python3')
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f'{name}.ipynb')
    return folder / f'{name}.ipynb'


def job(page):
    return page, page.with_name(f'{page.stem}-executed.ipynb'), dict(study='smoke', recipe='')


def outputs_of(notebook):
    """What each cell shows, its images aside, whose bytes have the fonts of a style in them."""
    shown = []
    for cell in nbformat.read(notebook, 4).cells:
        for output in cell.get('outputs', []):
            data = {k: v for k, v in output.get('data', {}).items() if k != 'image/png'}
            shown.append(
                (output.output_type, output.get('text'), data, len(output.get('data', {})))
            )
    return shown


def test_a_page_shows_what_it_shows_in_a_kernel(tmp_path, monkeypatch):
    monkeypatch.delenv('MPLBACKEND', raising=False)  # with it, no figure is shown
    page = write_page(tmp_path, 'page', *SHOWN)
    assert list(execute_pages({'page': job(page)})) == ['page']
    execute_notebook(page, tmp_path / 'kernel.ipynb', dict(study='smoke', recipe=''))
    assert outputs_of(tmp_path / 'page-executed.ipynb') == outputs_of(tmp_path / 'kernel.ipynb')


def test_a_page_shows_no_figure_that_was_open_before(tmp_path, monkeypatch):
    monkeypatch.delenv('MPLBACKEND', raising=False)
    page = write_page(tmp_path, 'page', *SHOWN)
    figure = plt.figure()
    list(execute_pages({'page': job(page)}))
    plt.close(figure)
    execute_notebook(page, tmp_path / 'kernel.ipynb', dict(study='smoke', recipe=''))
    assert outputs_of(tmp_path / 'page-executed.ipynb') == outputs_of(tmp_path / 'kernel.ipynb')


@pytest.mark.parametrize(
    'source',
    [
        "raise RuntimeError('no such row')",
        "from reproduce_kit.core import KitError\nraise KitError('params/a.yaml: wrong; mend it')",
        'a b',  # in a file whose name is drawn
    ],
)
def test_a_page_fails_as_it_does_in_a_kernel(tmp_path, source):
    page, messages = write_page(tmp_path, 'page', '1', source), []
    for execute in (
        lambda: list(execute_pages({'page': job(page)})),
        lambda: execute_notebook(*job(page)),
    ):
        with pytest.raises(KitError) as raised:
            execute()
        part = page.with_name('page-executed.part.ipynb')
        assert part.exists() and not page.with_name('page-executed.ipynb').exists()
        assert nbformat.read(part, 4).cells[-1].outputs[-1].output_type == 'error'
        messages.append(re.sub(r'\(\S+, line', '(line', str(raised.value)))
    assert messages[0] == messages[1]


def test_what_a_page_changes_stays_in_its_process(tmp_path):
    change = 'import matplotlib\nmatplotlib.rcParams["font.size"] = 30\nimport os\nos.environ["SEEN"] = "1"'
    see = 'import matplotlib, os\nmatplotlib.rcParams["font.size"], "SEEN" in os.environ'
    jobs = {
        name: job(write_page(tmp_path, name, source))
        for name, source in dict(a=change, b=see).items()
    }
    assert list(execute_pages(jobs)) == ['a', 'b']
    shown = nbformat.read(tmp_path / 'b-executed.ipynb', 4).cells[-1].outputs[0]
    assert shown.data['text/plain'] == str((matplotlib.rcParams['font.size'], False))


def test_a_page_whose_process_is_killed_is_named(tmp_path):
    page = write_page(tmp_path, 'page', f'import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})')
    with pytest.raises(KitError, match='page: the process of the page was killed'):
        list(execute_pages({'page': job(page)}))


def test_an_interrupted_page_ends_the_others(tmp_path):
    interrupt = 'import os, signal\nos.kill(os.getpid(), signal.SIGINT)'
    sleep = 'import time\ntime.sleep(60)'
    jobs = {
        name: job(write_page(tmp_path, name, source))
        for name, source in dict(a=sleep, b=interrupt).items()
    }
    with pytest.raises(KeyboardInterrupt):
        list(execute_pages(jobs))
    assert not (tmp_path / 'a-executed.ipynb').exists()


def test_a_page_that_is_interrupted_before_it_begins_ends_without_a_traceback(
    tmp_path, monkeypatch, capfd
):
    """A process that has just parted knows nothing yet of how a page answers Ctrl-C."""

    def interrupt_and_go_on():
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGINT)

    parent = os.getpid()
    monkeypatch.setattr(multiprocessing.util, '_close_stdin', interrupt_and_go_on)
    with pytest.raises(KeyboardInterrupt):
        list(execute_pages({'page': job(write_page(tmp_path, 'page', '1'))}))
    assert 'Traceback' not in capfd.readouterr().err


# one read for all pages

HASHED_AGAIN = """
from reproduce_kit.results.read_once import _hash
from reproduce_kit.results.run_tables import run_epochs, runs_or_none
before = _hash.cache_info().misses
for run in runs_or_none(study, recipe):
    run_epochs(run)
print(_hash.cache_info().misses - before)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, in a clone whose pages `settings` and `memory` count what they hash."""
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    for kind in ('runs', 'paper', 'figures'):
        monkeypatch.setenv(f'REPRODUCE_{kind.upper()}', str(tmp_path / kind))
    (tmp_path / 'params').symlink_to(ROOT / 'params')
    for name in ('settings', 'memory'):
        write_page(tmp_path / 'nbs/analysis', name, HASHED_AGAIN)
    frame = pd.DataFrame(0.5, index=pd.Index(['t1', 't2'], name='qid'), columns=MEASURES)
    config = make_config(SMOKE)
    return fake_run(config, {epoch: dict(test=frame) for epoch in config.measured_epochs})


def test_pages_that_are_made_together_hash_each_file_once(run, tmp_path):
    pages.make_outputs(('settings', 'memory'), 'smoke')
    for name in ('settings', 'memory'):
        executed = nbformat.read(tmp_path / f'runs/smoke/analysis/{name}.ipynb', 4)
        assert executed.cells[-1].outputs[0].text == '0\n'


def test_a_file_that_changed_since_the_last_rebuild_is_noticed(run):
    pages.make_outputs(('settings', 'memory'), 'smoke')
    file = run.epoch(1) / 'perquery.csv'
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_text(file.read_text().replace('0.5', '0.7', 1))
    os.utime(file, ns=times)
    os.utime(run.folder / 'history.jsonl')  # so that the pages are made again
    with pytest.raises(KitError, match='is not the file that the run measured'):
        pages.make_outputs(('settings', 'memory'), 'smoke')


def test_a_figure_that_was_written_is_shown_from_its_file(tmp_path, monkeypatch):
    monkeypatch.delenv('MPLBACKEND', raising=False)  # with it, no figure is shown
    monkeypatch.setenv('REPRODUCE_FIGURES', str(tmp_path / 'figures'))
    draw = (
        'import matplotlib.pyplot as plt\n'
        'from reproduce_kit.results.figures import save_figure\n'
        'figure, _ = plt.subplots(figsize=(2, 1))\n'
        "_ = save_figure(figure, 'empty', [], 'nbs/analysis/empty.ipynb')"
    )
    page = job(write_page(tmp_path, 'figure', draw))
    assert list(execute_pages(dict(figure=page))) == ['figure']
    shown = nbformat.read(page[1], 4).cells[-1].outputs
    assert [output.output_type for output in shown] == ['display_data']
    written = (tmp_path / 'figures/empty.png').read_bytes()
    assert b64decode(shown[0].data['image/png']) == written
    assert shown[0].metadata['image/png']['width'] == 144


def test_pages_that_need_nothing_start_before_the_others_are_read_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    order, show = tmp_path / 'order', "print('before') if not open(study).read() else None"
    order.write_text('')
    first = write_page(tmp_path, 'first', show)
    other = write_page(tmp_path, 'other', "print(open(study).read())")
    jobs = {
        page.stem: (*job(page)[:2], dict(study=str(order), recipe='')) for page in (other, first)
    }

    def read():
        while not (tmp_path / 'first-executed.ipynb').exists():
            time.sleep(0.01)
        order.write_text('read')

    assert list(execute_pages(jobs, ('first',), read)) == ['other', 'first']
    texts = [nbformat.read(jobs[name][1], 4).cells[-1].outputs[0].text for name in jobs]
    assert texts == ['read\n', 'before\n']


@pytest.mark.parametrize('cores', [1, 2, 8])
def test_nothing_is_read_where_no_page_needs_it(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(os, 'cpu_count', lambda: cores)
    jobs = {name: job(write_page(tmp_path, name, '1')) for name in ('a', 'b')}
    ended = list(execute_pages(jobs, ('b', 'a'), lambda: pytest.fail('read')))
    assert ended == ['a', 'b']


def test_what_executes_pages_is_imported_once_for_all(tmp_path):
    page = write_page(tmp_path, 'page', '1')
    code = (
        'import sys\n'
        'from reproduce_kit.publish.page_processes import import_modules_of\n'
        f'import_modules_of([{str(page)!r}])\n'
        "print({'papermill', 'nbformat', 'IPython'} <= sys.modules.keys(), 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert answer.stdout == 'True False\n', answer.stderr
