"""Pages in a real browser: the explorer in JupyterLab, the report opened as a file."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from kit import reproduce_here

from reproduce_kit.config.files import read_configs
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.engines.papermill import execute_notebook
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.testing.fake_runs import fake_run

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
needs_browser = pytest.mark.skipif(
    not CHROMIUM,
    reason='no browser: chromium is not installed (`make browser` installs it where it may)',
)
PAGE = ROOT / 'nbs/analysis/explore.ipynb'
TOPICS = {f't{i}': f'how to do thing number {i}' for i in range(8)}
SERVER_STARTS_WITHIN_SECONDS = 120
ELEMENT_APPEARS_WITHIN_MILLISECONDS = 90_000


def topic_values(config):
    """{epoch: {test set: frame}}: AdamW has 0.5 everywhere, Lion 0.2 more to 0.3 less."""
    gap = np.linspace(0.2, -0.3, 8) if config.optimizer == 'lion' else np.zeros(8)
    frame = pd.DataFrame(dict.fromkeys(MEASURES, 0.5 + gap), index=list(TOPICS))
    values = dict.fromkeys(config.test_sets, frame.rename_axis('qid'))
    return dict.fromkeys(config.measured_epochs, values)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two finished runs of the embedded study on eight topics; Lion loses most on the last one."""
    folder = tmp_path_factory.mktemp('runs')
    corpus = {f'd{i}': f'Passage {i} <b>not bold</b> & more.' for i in range(3)}
    qrels = {topic: {'d0': 3, 'd1': 0} for topic in TOPICS}
    texts = {
        name: EvalSet(name, TOPICS, qrels, {}, corpus, 'made up') for name in ('test', 'unseen')
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(folder))
        for config in read_configs([ROOT / 'params/embedded']):
            if config.seed == 12:
                fake_run(config, topic_values(config), texts)
        yield folder


# --- a browser and a server ---


@pytest.fixture(scope='module')
def new_page():
    """A function that opens a page; one browser for all of them."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])

        def new_page():
            page = browser.new_page(viewport=dict(width=1500, height=1000))
            page.set_default_timeout(ELEMENT_APPEARS_WITHIN_MILLISECONDS)
            return page

        yield new_page
        browser.close()


def free_port():
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def wait_for(port, process, log):
    """Return once the port answers; fail with the log if the process ends before."""
    end = time.time() + SERVER_STARTS_WITHIN_SECONDS
    while time.time() < end:
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            return
        except OSError:
            time.sleep(0.5)
        assert process.poll() is None, log.read_text()[-2000:]
    pytest.fail(f'JupyterLab does not answer: {log.read_text()[-2000:]}')


@contextmanager
def jupyterlab(folder: Path, runs: Path):
    """A server of this folder, with settings of its own."""
    port, log = free_port(), folder / 'lab.log'
    env = dict(
        REPRODUCE_RUNS=str(runs),
        REPRODUCE_ROOT=str(ROOT),
        JUPYTER_CONFIG_DIR=str(folder / 'config'),
        JUPYTERLAB_SETTINGS_DIR=str(folder / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(folder / 'workspaces'),
    )
    options = [
        *['--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0'],
        *['--IdentityProvider.token=test', f'--ServerApp.root_dir={folder}'],
        *['--LabApp.news_url=', '--ServerApp.use_redirect_file=False'],
    ]
    with log.open('w') as output:
        process = subprocess.Popen(
            [sys.executable, '-m', 'jupyterlab', *options],
            cwd=folder,
            env=os.environ | env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(port, process, log)
            yield f'http://127.0.0.1:{port}'
        finally:
            process.terminate()
            process.wait(30)


# --- the explorer ---


@pytest.fixture(scope='module')
def lab(runs, new_page, tmp_path_factory):
    """The explorer in JupyterLab, all its cells executed."""
    folder = tmp_path_factory.mktemp('lab')
    shutil.copyfile(PAGE, folder / PAGE.name)
    with jupyterlab(folder, runs) as url:
        page = new_page()
        page.goto(f'{url}/lab/tree/{PAGE.name}?token=test')
        page.locator('.jp-Notebook .jp-CodeCell').first.wait_for()
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        page.locator('.kit-topic').first.wait_for()
        yield page


def click_first_topic(lab):
    """Choose the bar on top, the topic on which Lion gains most."""
    lab.locator('.kit-topic').first.click()
    lab.locator(f".kit h4:has-text('{TOPICS['t0']}')").last.wait_for()


@needs_browser
def test_every_topic_is_a_bar_and_the_largest_difference_is_shown_first(lab):
    assert lab.locator('.kit-topic').count() == len(TOPICS)
    head = lab.locator('.jp-OutputArea .kit h4').last
    assert TOPICS['t7'] in head.inner_text()


@needs_browser
def test_a_click_on_a_bar_shows_the_passages_of_both_rankings_as_text(lab):
    click_first_topic(lab)
    text = lab.locator('.jp-OutputArea .kit .two').last.inner_text()
    assert 'Passage 0 <b>not bold</b> & more.' in text and 'Lion' in text and 'AdamW' in text


@needs_browser
def test_passages_have_their_grades_and_a_question_mark_without_one(lab):
    click_first_topic(lab)
    grades = lab.locator('.jp-OutputArea .kit .two').last.locator('.g').all_inner_texts()
    assert sorted(grades) == ['0', '0', '3', '3', '?', '?']


@needs_browser
def test_the_menus_choose_the_measure_and_the_rankings(lab):
    menus = lab.locator('.widget-dropdown select')
    menus.nth(3).select_option('P(rel=2)@10')
    lab.locator('text=P(rel=2)@10 on 8 topics').last.wait_for()
    first = menus.nth(0).evaluate('menu => menu.selectedIndex')
    menus.nth(1).select_option(index=first)
    lab.locator('text=8 equal').last.wait_for()


def test_a_batch_run_leaves_bars_and_text_in_the_notebook(runs, tmp_path):
    copy = tmp_path / 'out.ipynb'
    execute_notebook(PAGE, copy, dict(study='embedded'))
    outputs = [
        output['data']
        for cell in nbformat.read(copy, 4).cells
        for output in cell.get('outputs', [])
        if 'text/html' in output.get('data', {})
    ]
    (shown,) = outputs
    assert TOPICS['t7'] in shown['text/html']
    assert '<td>-0.300</td>' in shown['text/html']
    assert 'not bold&lt;/b&gt;' in shown['text/html']
    assert 'application/vnd.jupyter.widget-view+json' in shown


# --- the report ---


@pytest.fixture(scope='module')
def report(runs, tmp_path_factory):
    """The report of the two runs, alone in a folder."""
    path = tmp_path_factory.mktemp('report') / 'mail.html'
    process = reproduce_here('report', 'embedded', '--out', path, env=dict(REPRODUCE_RUNS=runs))
    assert process.returncode == 0 and 'wrote' in process.stdout, process.stderr
    return path


def test_the_report_is_one_file_that_fits_into_a_mail(report):
    assert list(report.parent.iterdir()) == [report]
    assert report.stat().st_size < 3e6


@pytest.fixture(scope='module')
def report_page(report, new_page):
    """The report in a browser: (page, requested addresses, messages on the console)."""
    page, requests, messages = new_page(), [], []
    page.on('request', lambda request: requests.append(request.url))
    page.on('console', lambda message: messages.append(message.text))
    page.goto(f'file://{report}')
    return page, requests, messages


@needs_browser
def test_the_report_needs_no_other_file_and_no_network(report, report_page):
    _, requests, messages = report_page
    assert [url for url in requests if not url.startswith('data:')] == [f'file://{report}']
    assert not messages


@needs_browser
def test_a_number_of_the_report_names_its_run_and_hash(report_page):
    page, *_ = report_page
    cell = page.locator('#table1 td:has-text("0.4500")').first  # 0.5 and the mean gap of -0.05
    title = cell.get_attribute('title')
    assert 'minilm-l4-lion' in title and 'sha256' in title


@needs_browser
def test_the_report_says_what_the_runs_say(report_page):
    page, *_ = report_page
    assert '−0.050' in page.locator('#significance').inner_text()
    assert 'as-configured' in page.locator('#configs').inner_text()
    assert page.locator('#claims-draft .v-undecidable').count() > 5
    assert '42 of 108' in page.locator('#finding-list').inner_text()
    assert page.locator('img').count() == 3  # without several seeds, no power to draw
    assert 'no backbone was run with both' in page.locator('body').inner_text()


@needs_browser
def test_the_report_fits_the_width_of_a_window(report_page):
    page, *_ = report_page
    assert page.evaluate('document.body.scrollWidth <= window.innerWidth')


def test_a_report_without_runs_is_an_error():
    process = reproduce_here('report', 'nobody')
    assert process.returncode == 1 and 'no finished runs' in process.stderr
