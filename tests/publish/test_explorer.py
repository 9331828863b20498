"""Pages in a real browser: the explorer in JupyterLab, the report opened as a file."""

import shutil
from contextlib import suppress

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from browser import chromium, needs_browser
from conftest import ROOT
from jupyterlab import jupyterlab, open_page
from kit import reproduce_here

from reproduce_kit.config.files import read_configs
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.engines.papermill import execute_notebook
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.testing.fake_runs import fake_run

PAGE = ROOT / 'nbs/analysis/explore.ipynb'
TOPICS = {f't{i}': f'how to do thing number {i}' for i in range(8)}
HOSTILE = '</option><img src=x onerror="alert(1)"> $x^2$'
TOPICS['t3'] = HOSTILE
MANY_TOPICS = {f'q{i}': f'topic number {i}' for i in range(1000)}
DRAWN_WITHIN_SECONDS = 3
ELEMENT_APPEARS_WITHIN_MILLISECONDS = 90_000


def topic_values(config, topics):
    """{epoch: {test set: frame}}: AdamW has 0.5 everywhere, Lion 0.2 more to 0.3 less."""
    count = len(topics)
    gap = np.linspace(0.2, -0.3, count) if config.optimizer == 'lion' else np.zeros(count)
    frame = pd.DataFrame(dict.fromkeys(MEASURES, 0.5 + gap), index=list(topics))
    values = dict.fromkeys(config.test_sets, frame.rename_axis('qid'))
    return dict.fromkeys(config.measured_epochs, values)


def write_runs(study, topics):
    """Two finished runs of a study, with text at the top."""
    corpus = {f'd{i}': f'Passage {i} <b>not bold</b> & more.' for i in range(3)}
    qrels = {topic: {'d0': 3, 'd1': 0} for topic in topics}
    for config in read_configs([ROOT / 'params' / study]):
        texts = {
            name: EvalSet(name, topics, qrels, {}, corpus, 'made up')
            for name in config.all_test_sets
        }
        if config.seed == 12:
            fake_run(config, topic_values(config, topics), texts)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two runs on eight topics, of which Lion loses most on the last one; two on a thousand."""
    folder = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(folder))
        write_runs('embedded', TOPICS)
        write_runs('demo', MANY_TOPICS)
        yield folder


# --- a browser ---


@pytest.fixture(scope='module')
def new_page():
    """A function that opens a page; one browser for all of them."""
    with chromium() as browser:

        def new_page():
            page = browser.new_page(viewport=dict(width=1500, height=1000))
            page.set_default_timeout(ELEMENT_APPEARS_WITHIN_MILLISECONDS)
            return page

        yield new_page


# --- the explorer ---


@pytest.fixture(scope='module')
def lab(runs, new_page, tmp_path_factory):
    """The explorer in JupyterLab, all its cells executed."""
    folder = tmp_path_factory.mktemp('lab')
    shutil.copyfile(PAGE, folder / PAGE.name)
    with jupyterlab(folder, folder, REPRODUCE_RUNS=runs) as address:
        page = new_page()
        open_page(page, address, PAGE.name)
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        page.locator('.kit-topics option').first.wait_for()
        yield page


def menu(lab, label, number=0):
    return lab.locator('.kit-explorer').get_by_label(label, exact=True).nth(number)


def line_count(lab):
    return lab.locator('.kit-topics option').count()


def wait_for_lines(lab, count):
    lab.wait_for_function(
        f'document.querySelectorAll(".kit-topics option").length == {count}', timeout=30_000
    )


def choose_run(lab, letter, optimizer):
    runs = menu(lab, 'run', 'AB'.index(letter))
    labels = runs.locator('option').all_inner_texts()
    runs.select_option(next(label for label in labels if optimizer in label))


@pytest.fixture
def explorer(lab):
    """The explorer as it opened: Lion as A, AdamW as B, all topics."""
    for letter in 'AB':
        menu(lab, f'{letter}: study').select_option('embedded/controlled')
    choose_run(lab, 'A', 'Lion')
    choose_run(lab, 'B', 'AdamW')
    for number in range(2):
        menu(lab, 'ranked by', number).select_option('epoch 3')
    menu(lab, 'measure').select_option('nDCG@10')
    menu(lab, 'show').select_option('all')
    lab.get_by_placeholder('search queries').fill('')
    lab.get_by_text('nDCG@10 on 8 topics: A 0.4500, B 0.5000').wait_for()
    wait_for_lines(lab, len(TOPICS))
    return lab


def read_topic(lab, topic, key):
    """Press a key in the list, and wait until the topic is shown."""
    menu(lab, 'topics').focus()
    lab.keyboard.press(key)
    lab.locator('.kit h3', has_text=TOPICS[topic]).wait_for()


@needs_browser
def test_the_topic_that_differs_most_is_read_first(lab):
    assert line_count(lab) == len(TOPICS)
    assert TOPICS['t7'] in lab.locator('.kit h3').inner_text()


@needs_browser
def test_keys_move_through_the_topics_and_show_both_rankings_as_text(explorer):
    read_topic(explorer, 't7', 'End')
    read_topic(explorer, 't0', 'Home')
    text = explorer.locator('.kit .two').inner_text()
    assert 'Passage 0 <b>not bold</b> & more.' in text and 'Lion' in text and 'AdamW' in text


@needs_browser
def test_passages_have_their_grades_and_what_moved(explorer):
    read_topic(explorer, 't0', 'Home')
    shown = explorer.locator('.kit .two')
    grades = shown.locator('.g').all_inner_texts()
    assert sorted(grades) == ['0', '0', '3', '3', '?', '?']
    moved = shown.locator('.moved').all_inner_texts()
    assert {text[-1] for text in moved[:3]} == {'B'} and {text[0] for text in moved} == {'▲', '▼'}


@needs_browser
def test_a_hostile_query_is_text(explorer):
    line = explorer.locator('.kit-topics option').nth(3)
    assert line.inner_text().replace('\xa0', ' ').endswith(HOSTILE)
    menu(explorer, 'topics').select_option(index=3)
    explorer.locator('.kit h3', has_text=HOSTILE).wait_for()
    assert explorer.locator('img[src=x]').count() == 0


@needs_browser
def test_the_menus_choose_the_measure_and_the_rankings(explorer):
    menu(explorer, 'measure').select_option('P(rel=2)@10')
    explorer.get_by_text('P(rel=2)@10 on 8 topics').wait_for()
    choose_run(explorer, 'B', 'Lion')
    explorer.get_by_text('equal on 8').wait_for()


@needs_browser
def test_a_run_is_compared_with_its_first_stage(explorer):
    choose_run(explorer, 'A', 'AdamW')
    explorer.get_by_text('A 0.5000, B 0.5000').wait_for()  # else the kernel's answer undoes it
    menu(explorer, 'ranked by', 1).select_option('first stage')
    explorer.get_by_text('A 0.5000, B 0.2500').wait_for()


@needs_browser
def test_filters_and_words_choose_the_topics(explorer):
    menu(explorer, 'show').select_option('A higher')
    wait_for_lines(explorer, 3)
    menu(explorer, 'show').select_option('no headroom')
    explorer.get_by_text('No topic matches.').wait_for()
    menu(explorer, 'show').select_option('all')
    explorer.get_by_placeholder('search queries').fill('THING 6')
    wait_for_lines(explorer, 1)
    explorer.locator('.kit h3', has_text=TOPICS['t6']).wait_for()


@needs_browser
def test_the_training_of_both_runs_is_drawn_when_it_is_asked_for(explorer):
    assert explorer.locator('.kit .curves').count() == 0
    explorer.get_by_role('button', name='Training curves').click()
    explorer.locator('.kit .curves figure').first.wait_for()
    titles = explorer.locator('.kit .curves figcaption').all_inner_texts()
    assert titles[-1] == 'learning rate' and len(titles) == 3
    explorer.get_by_role('button', name='Training curves').click()


@needs_browser
def test_what_cannot_be_compared_is_said(explorer):
    menu(explorer, 'B: study').select_option('demo/controlled')
    explorer.get_by_text('measure both on the same topics').wait_for()
    wait_for_lines(explorer, 0)


def processor_seconds():
    """Of this process's children: the browser, JupyterLab and the kernel."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@needs_browser
def test_a_thousand_topics_are_drawn_in_less_than_three_seconds(explorer):
    """In seconds of the processor: other tests use it at the same time."""
    menu(explorer, 'A: study').select_option('demo/controlled')
    wait_for_lines(explorer, len(MANY_TOPICS))  # B has followed
    before = processor_seconds()
    menu(explorer, 'measure').select_option('P(rel=2)@10')
    explorer.get_by_text('P(rel=2)@10 on 1000 topics').wait_for()
    wait_for_lines(explorer, len(MANY_TOPICS))
    assert processor_seconds() - before < DRAWN_WITHIN_SECONDS


@needs_browser
def test_the_view_is_exported_as_a_page_that_loads_nothing(explorer, new_page):
    menu(explorer, 'show').select_option('B higher')
    wait_for_lines(explorer, 5)
    explorer.get_by_role('button', name='Export as HTML').click()
    note = explorer.get_by_text('wrote')
    note.wait_for()
    path = note.locator('code').inner_text()
    page, requests, messages = new_page(), [], []
    page.on('request', lambda request: requests.append(request.url))
    page.on('console', lambda message: messages.append(message.text))
    page.goto(f'file://{path}')
    assert len(requests) == 1 and not messages
    assert page.locator('details').count() == 5 and page.locator('img').count() == 0
    page.locator('summary', has_text='img src=x').click()
    assert 'Passage 0 <b>not bold</b>' in page.locator('details[open]').inner_text()


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


def test_a_report_without_runs_is_an_error(tmp_path):
    process = reproduce_here('report', 'smoke', env=dict(REPRODUCE_RUNS=tmp_path))
    assert process.returncode == 1 and 'no finished runs' in process.stderr


def test_a_report_of_a_study_that_does_not_exist_names_the_nearest():
    process = reproduce_here('report', 'embeded')
    assert process.returncode == 1 and "did you mean 'embedded'" in process.stderr
