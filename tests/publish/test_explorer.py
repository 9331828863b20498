"""Pages in a real browser: the explorer in JupyterLab, the report opened as a file."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from reproduce_kit.config.files import read_configs
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.testing.fake_runs import fake_run

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = pytest.mark.skipif(
    not CHROMIUM,
    reason='no browser: chromium is not installed (`make browser` installs it where it may)',
)
TOPICS = {f't{i}': f'how to do thing number {i}' for i in range(8)}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two finished runs of the embedded study on eight topics; the last topic is where Lion loses most."""
    folder = tmp_path_factory.mktemp('runs')
    before = os.environ['REPRODUCE_RUNS']
    os.environ['REPRODUCE_RUNS'] = str(folder)
    corpus = {f'd{i}': f'Passage {i} <b>not bold</b> & more.' for i in range(3)}
    qrels = {q: {'d0': 3, 'd1': 0} for q in TOPICS}
    for cfg in read_configs([ROOT / 'params/embedded']):
        if cfg.layers != 4:
            continue
        gap = np.linspace(0.2, -0.3, 8) if cfg.optimizer == 'lion' else np.zeros(8)
        frames = {
            n: {
                'test': pd.DataFrame(
                    {m: 0.5 + gap for m in MEASURES}, index=list(TOPICS)
                ).rename_axis('qid')
            }
            for n in (1, 2, 3)
        }
        fake_run(cfg, frames, {'test': EvalSet('test', TOPICS, qrels, {}, corpus, 'made up')})
    yield folder
    os.environ['REPRODUCE_RUNS'] = before


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        try:
            yield b.new_page(viewport=dict(width=1500, height=1000))
        finally:
            b.close()


@contextmanager
def jupyterlab(folder: Path, env: dict):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    log = (folder / 'lab.log').open('w')
    p = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'jupyterlab',
            '--no-browser',
            '--allow-root',
            f'--port={port}',
            '--ServerApp.port_retries=0',
            '--IdentityProvider.token=test',
            f'--ServerApp.root_dir={folder}',
            '--LabApp.news_url=',
            '--ServerApp.use_redirect_file=False',
        ],
        cwd=folder,
        env=os.environ | env,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        for _ in range(240):
            try:
                socket.create_connection(('127.0.0.1', port), 1).close()
                break
            except OSError:
                time.sleep(0.5)
            assert p.poll() is None, (folder / 'lab.log').read_text()[-2000:]
        yield f'http://127.0.0.1:{port}'
    finally:
        p.terminate()
        p.wait(30)


def test_explore_in_jupyterlab(runs, tmp_path):
    shutil.copyfile(ROOT / 'nbs/analysis/explore.ipynb', tmp_path / 'explore.ipynb')
    env = dict(
        REPRODUCE_RUNS=str(runs),
        REPRODUCE_ROOT=str(ROOT),
        JUPYTER_CONFIG_DIR=str(tmp_path / 'config'),
        JUPYTERLAB_SETTINGS_DIR=str(tmp_path / 'settings'),
        JUPYTERLAB_WORKSPACES_DIR=str(tmp_path / 'workspaces'),
    )
    with jupyterlab(tmp_path, env) as url, browser() as page:
        page.goto(f'{url}/lab/tree/explore.ipynb?token=test')
        page.set_default_timeout(90_000)
        page.locator('.jp-Notebook .jp-CodeCell').first.wait_for()
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        bars = page.locator('.kit-topic')
        bars.first.wait_for()
        assert bars.count() == 8
        head = page.locator('.jp-OutputArea .kit h4').last
        assert TOPICS['t7'] in head.inner_text()  # differs most, so shown first
        bars.first.click()
        page.locator(
            f".kit h4:has-text('{TOPICS['t0']}')"
        ).last.wait_for()  # the bar on top is where Lion gains most
        text = page.locator('.jp-OutputArea .kit .two').last.inner_text()
        assert 'Passage 0 <b>not bold</b> & more.' in text and 'Lion' in text and 'AdamW' in text
        grades = page.locator('.jp-OutputArea .kit .two').last.locator('.g').all_inner_texts()
        assert sorted(grades) == ['0', '0', '3', '3', '?', '?']
        page.locator('.widget-dropdown select').nth(3).select_option('P(rel=2)@10')
        page.locator("text=P(rel=2)@10 on 8 topics").last.wait_for()
        page.locator('.widget-dropdown select').nth(1).select_option(
            index=page.locator('.widget-dropdown select').nth(0).evaluate('s => s.selectedIndex')
        )
        page.locator('text=8 equal').last.wait_for()


def test_explore_without_a_front_end(runs, tmp_path):
    """A batch run leaves bars and text in the notebook."""
    import nbformat

    from reproduce_kit.engines.papermill import execute_notebook

    execute_notebook(
        ROOT / 'nbs/analysis/explore.ipynb', tmp_path / 'out.ipynb', dict(study='embedded')
    )
    (shown,) = [
        o['data']
        for c in nbformat.read(tmp_path / 'out.ipynb', 4).cells
        for o in c.get('outputs', [])
        if 'text/html' in o.get('data', {})
    ]
    assert (
        TOPICS['t7'] in shown['text/html']
        and '<td>-0.300</td>' in shown['text/html']
        and 'not bold&lt;/b&gt;' in shown['text/html']
        and 'application/vnd.jupyter.widget-view+json' in shown
    )


def test_report_is_one_page(runs, tmp_path):
    """The report opens as a file, asks nobody for anything, and says what the runs say."""
    from kit import reproduce

    p = reproduce(
        'report', 'embedded', '--out', tmp_path / 'mail.html', env=dict(REPRODUCE_RUNS=runs)
    )
    assert p.returncode == 0 and 'wrote' in p.stdout, p.stderr
    assert (
        list(tmp_path.iterdir()) == [tmp_path / 'mail.html']
        and (tmp_path / 'mail.html').stat().st_size < 3e6
    )
    with browser() as page:
        asked, said = [], []
        page.on('request', lambda r: asked.append(r.url))
        page.on('console', lambda m: said.append(m.text))
        page.goto(f'file://{tmp_path}/mail.html')
        assert [u for u in asked if not u.startswith('data:')] == [
            f'file://{tmp_path}/mail.html'
        ] and not said
        cell = page.locator('#table1 td:has-text("0.4500")').first
        assert 'minilm-l4-lion' in cell.get_attribute('title') and 'sha256' in cell.get_attribute(
            'title'
        )  # 0.5 and the mean gap of -0.05
        assert (
            '−0.050' in page.locator('#significance').inner_text()
            and 'as-configured' in page.locator('#configs').inner_text()
        )
        assert (
            page.locator('#claims-paper .v-undecidable').count() > 5
            and '42 of 108' in page.locator('#findings').inner_text()
            and page.locator('img').count() == 4
        )
        assert page.evaluate('document.body.scrollWidth <= window.innerWidth')
    p = reproduce('report', 'nobody')
    assert p.returncode == 1 and 'no finished runs' in p.stderr
