"""The scoreboard and the report of a study with printed numbers, as files and in a real browser."""

import csv
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from browser import chromium, needs_browser, serious_violations
from bs4 import BeautifulSoup
from conftest import ROOT
from kit import link_clone, reproduce_here, write_yaml

from reproduce_kit.cli.app import main
from reproduce_kit.config.files import read_configs
from reproduce_kit.core import sha256, write_checksums
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.scoreboard import make_board, write_scoreboard
from reproduce_kit.testing.fake_runs import fake_run

STUDY = 'lion-vs-adamw'
PUBLISHED = ROOT / 'params' / STUDY / 'published'
MISSING = '–'
SET_MEASURES = dict(qa=['mrr10_qa_v11'], dev=['mrr10_passage_dev'])
ROW = 'ModernBERT + Lion, epoch 2: nDCG@10'


def topic_values(config, seed):
    """{epoch: {test set: frame}}: 43 topics around 0.5."""
    values = 0.5 + np.random.default_rng(seed).uniform(-0.2, 0.2, 43)
    topics = pd.Index([f'{i:03}' for i in range(43)], name='qid')
    sets = {
        name: pd.DataFrame(dict.fromkeys(SET_MEASURES.get(name, MEASURES), values), index=topics)
        for name in config.all_test_sets
    }
    return dict.fromkeys(config.measured_epochs, sets)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Finished runs of two rows of a recipe, whose checkpoints are short texts."""
    folder = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(folder))
        for seed, config in enumerate(read_configs([PUBLISHED.parent / 'as-run'])):
            if config.name.startswith('modernbert'):
                run = fake_run(config, topic_values(config, seed))
                model = run.epoch(2) / 'model'
                model.mkdir()
                (model / 'model.safetensors').write_text(config.name)
                write_checksums(model)
                run.lock.release(force=True)
    return folder


def written(folder, runs=None):
    """The scoreboard of the study, with these runs or with none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_RUNS', str(runs or folder / 'no-runs'))
        return write_scoreboard(STUDY, folder / 'scoreboard.html')


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """The scoreboard before anything was run."""
    return written(tmp_path_factory.mktemp('bare'))


@pytest.fixture(scope='module')
def board(runs, tmp_path_factory):
    """The scoreboard with runs."""
    return written(tmp_path_factory.mktemp('board'), runs)


@pytest.fixture(scope='module')
def report(runs, tmp_path_factory):
    """The report of the same runs."""
    path = tmp_path_factory.mktemp('report') / 'report.html'
    words = ['report', STUDY, '--recipe', 'as-run', '--out', path]
    answer = reproduce_here(*words, env=dict(REPRODUCE_RUNS=runs))
    assert answer.returncode == 0, answer.stderr
    return path


def soup(path):
    return BeautifulSoup(path.read_text('utf-8'), 'html.parser')


# --- what the page says ---


def rows_of(name):
    with (PUBLISHED / f'{name}.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def numbers_of(name) -> dict:
    """{(model, optimizer, epoch, measure): as printed, four digits} of a file, read here."""
    models = {row['backbone']: row['model'] for row in rows_of('models')}
    measures = {row['measure']: row['name'] for row in rows_of('measures')}
    return {
        (models[row['backbone']], row['optimizer'], row['epoch'], title): f'{float(row[key]):.4f}'
        for row in rows_of(name)
        for key, title in measures.items()
        if row.get(key)
    }


def listed_sources(page) -> dict:
    """{(model, optimizer, epoch, measure): {source: as printed}} of all panels of a page."""
    listed = {}
    for panel in soup(page).select('.panel'):
        key = re.fullmatch(r'(\w+) \+ (\w+), epoch (\d): (.+)', panel.h3.text).groups()
        rows = [row.find_all(['th', 'td']) for row in panel.table.tbody.find_all('tr')]
        listed[key] = {cells[0].text: cells[1].text for cells in rows}
    return listed


@pytest.fixture(scope='module')
def listed(bare):
    return listed_sources(bare)


def test_every_number_of_the_table_lists_every_source(listed):
    titles = [row['title'] for row in rows_of('sources') if row['holds'] == 'rows']
    assert len(listed) == 108
    assert all(list(sources) == titles for sources in listed.values())


@pytest.mark.parametrize('name', ['table1', 'raw', 'appendix', 'second', 'arxiv-v1'])
def test_a_source_is_shown_as_it_prints_a_number(listed, name):
    (title,) = (row['title'] for row in rows_of('sources') if row['file'] == name)
    numbers = numbers_of(name)
    assert {key: sources[title] for key, sources in listed.items()} == {
        key: numbers.get(key, MISSING) for key in listed
    }


def test_a_table_without_epochs_is_shown_at_one_epoch_of_each_row(listed):
    shown = {}
    for (model, optimizer, _, measure), sources in listed.items():
        if (printed := sources['Table 5.1 of the thesis']) != MISSING:
            shown.setdefault((model, optimizer, '', measure), []).append(printed)
    assert shown == {key: [number] for key, number in numbers_of('thesis').items()}


def test_an_inferred_epoch_is_said_to_be_inferred(bare):
    notes = [row.text for row in soup(bare).select('.panel tr') if 'thesis' in row.text]
    shown = [note for note in notes if MISSING not in note]
    assert len(shown) == len(numbers_of('thesis'))
    assert all('(epoch inferred)' in note for note in shown)


def test_42_numbers_differ_between_sources_of_the_same_runs(bare):
    page = soup(bare)
    assert len(page.select("td[data-sources='disagree']")) == 42
    assert 'No run of the study is finished yet.' in page.main.text


def test_before_any_run_the_page_has_the_effect_of_each_source(bare):
    effects = soup(bare).find(id='source-effects')
    rows = [[cell.text for cell in row.find_all('td')] for row in effects.select('tbody tr')]
    assert len(rows) == 18  # of nDCG@10 and MAP
    ratios = [number for row in rows for number in row if re.fullmatch(r'-?\d+\.\d\d', number)]
    assert '0.58' in ratios  # GTE after epoch 1: -0.0254 / -0.0439


def commands_of(page) -> set:
    lines = [line for block in soup(page).select('.panel pre') for line in block.text.split('\n')]
    return set(filter(None, lines))


def test_every_command_can_be_typed(bare):
    commands = commands_of(bare)
    assert {command.split()[1] for command in commands} == {'run', 'check'}
    for command in commands:
        _, name, *words = shlex.split(command)
        main.commands[name].make_context(name, list(words))
        assert all((ROOT / path).exists() for path in words), command


def test_a_model_zoo_shows_the_rows_of_all_its_sources(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    board = make_board('model-zoo')
    assert board.keys == ['Model']
    assert len(board.cells) == len((ROOT / 'params/model-zoo/published.csv').open().readlines()) - 1
    assert len({cell.reference for cell in board.cells}) == 2


@pytest.mark.parametrize(
    ('study', 'words'),
    [('embedded', 'reproduce scoreboard lion-vs-adamw'), ('tite', 'no printed numbers')],
)
def test_a_study_without_printed_numbers_gets_no_page(study, words, tmp_path):
    page = tmp_path / 'page.html'
    answer = reproduce_here('scoreboard', study, '--out', page)
    assert answer.returncode == 1 and words in answer.stderr and not page.exists()


HOSTILE = '<script>document.title = "taken"</script></style><img src=x onerror=alert(1)>'


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The scoreboard of a study whose source is named by an attacker."""
    clone = link_clone(tmp_path / 'clone')
    folder = clone / 'params/evil'
    folder.mkdir()
    shutil.copy(ROOT / 'params/embedded/backbones.yaml', folder)
    write_yaml(folder, 'a', study='evil', recipe='first', backbone='minilm-l6-h384', layers=6)
    (folder / 'study.yaml').write_text(f"publication:\n  title: '{HOSTILE}'\n")
    quoted = HOSTILE.replace('"', '""')
    (folder / 'published.csv').write_text(
        'backbone,optimizer,epoch,measure,test_set,printed,source\n'
        f'minilm-l6-h384,Lion,1,nDCG@10,test,0.5,"{quoted}"\n'
    )
    monkeypatch.setenv('REPRODUCE_ROOT', str(clone))
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return write_scoreboard('evil')


def test_hostile_names_stay_text(hostile):
    page = soup(hostile)
    assert len(page.find_all('script')) == 1 and not page.find_all('img')
    assert HOSTILE in page.main.text and HOSTILE in page.find(id='board').caption.text


# --- in a browser ---


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """A function that opens a page and collects what it asks for and complains about."""
    contexts = []

    def open_page(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.noise = []
        page.on('console', lambda message: page.noise.append(message.text))
        page.on('pageerror', lambda error: page.noise.append(str(error)))
        page.on('request', lambda request: page.noise.append(request.url))
        page.goto(f'file://{path}')
        page.noise.remove(f'file://{path}')
        return page

    yield open_page
    for context in contexts:
        context.close()


def number(page, label):
    return page.get_by_role('button', name=label)


@needs_browser
def test_a_click_on_a_number_leads_to_its_run_and_hashes(board, runs, opened):
    page = opened(board)
    number(page, ROW).click()
    panel = page.get_by_role('dialog', name=ROW)
    (run,) = (runs / STUDY / 'as-run').glob('modernbert-lion-*')
    text = panel.inner_text()
    assert f'{STUDY}/as-run/{run.name}' in text
    assert sha256(run / 'epoch-2/dl19.run.gz') in text
    assert sha256(run / 'epoch-2/model/model.safetensors') in text
    assert 'reproduce run params/lion-vs-adamw/as-run/modernbert-lion.yaml' in text
    assert '95 % interval over topics' in text
    assert page.noise == []


@needs_browser
def test_a_panel_opens_and_closes_by_keyboard_and_returns_the_focus(board, opened):
    page = opened(board)
    button, panel = number(page, ROW), page.get_by_role('dialog', name=ROW)
    button.focus()
    page.keyboard.press('Enter')
    assert panel.is_visible()
    page.keyboard.press('Tab')
    assert page.locator('.close:focus').count() == 1
    page.keyboard.press('Escape')
    assert not panel.is_visible()
    assert button.evaluate('button => button === document.activeElement')


def first_column(page):
    cells = page.locator('#board > tbody > tr > td:nth-child(4):visible')
    return [cell.get_attribute('data-value') for cell in cells.all()]


@needs_browser
def test_the_keyboard_sorts_down_up_and_back(bare, opened):
    page = opened(bare)
    printed = first_column(page)
    head = page.locator('#board > thead th', has_text='nDCG@10')
    head.get_by_role('button').focus()
    orders = []
    for _ in range(3):
        page.keyboard.press('Enter')
        orders.append((head.get_attribute('aria-sort'), first_column(page)))
    assert orders == [
        ('descending', sorted(printed, reverse=True)),
        ('ascending', sorted(printed)),
        ('none', printed),
    ]


def status(page):
    return page.get_by_role('status').inner_text()


@needs_browser
def test_the_keyboard_filters_by_sources_verdict_and_recipe(board, opened):
    page = opened(board)
    assert status(page) == '109 of 109 numbers'
    page.get_by_label('Sources').focus()
    page.keyboard.type('differ')
    assert status(page) == '42 of 109 numbers'
    page.get_by_role('button', name='Show all').press('Enter')
    page.get_by_label('Recipe').focus()
    page.keyboard.type('as-discussed')
    assert status(page) == '18 of 109 numbers'
    for _ in range(4):
        page.keyboard.press('ArrowUp')  # to the first recipe, as-run
    page.get_by_label('Verdict').focus()
    page.keyboard.type('not-run')
    assert status(page) == '72 of 109 numbers'
    assert page.locator('#board > tbody > tr:visible').count() == 12


@needs_browser
def test_without_scripts_the_table_reads_and_its_panels_open(board, opened):
    page = opened(board, java_script_enabled=False)
    assert not page.locator('#filters').is_visible()
    page.locator('.cell').nth(5).click()
    assert page.locator('.panel:visible').count() == 1


@needs_browser
@pytest.mark.parametrize(
    'scheme, width',
    [
        ('light', 390),
        pytest.param('dark', 390, marks=pytest.mark.soak),
        pytest.param('light', 1280, marks=pytest.mark.soak),
        ('dark', 1280),
    ],
)
def test_the_scoreboard_is_usable_by_everybody(board, opened, scheme, width):
    page = opened(board, color_scheme=scheme, viewport=dict(width=width, height=900))
    assert serious_violations(page) == []
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    number(page, ROW).click()
    assert serious_violations(page) == []


@needs_browser
def test_hostile_names_run_nothing_and_ask_for_nothing(hostile, opened):
    page = opened(hostile)
    assert page.title() == 'evil: scoreboard' and page.noise == []
    assert HOSTILE in page.locator('main').inner_text()


# --- the report ---


@pytest.mark.soak
def test_the_report_has_the_scoreboard_and_fits_into_a_mail(report):
    page = soup(report)
    assert report.stat().st_size < 2 * 2**20
    assert len(page.select('#board .cell')) == 109
    wanted = ['scoreboard', 'tables', 'evidence', 'figures', 'effects', 'verdicts', 'claims']
    assert [head['id'] for head in page.select('h2')] == [*wanted, 'findings', 'provenance']


def test_the_report_has_the_sweep_of_a_study_whose_results_are_kept(monkeypatch):
    from reproduce_kit.publish import report  # noqa: PLC0415

    monkeypatch.setenv('REPRODUCE_PAPER', str(ROOT / 'paper'))
    body = report._sweep_html('embedded')
    assert "id='sweep'" in body and '<figure><img' in body


@pytest.mark.soak
@needs_browser
@pytest.mark.parametrize('scheme', ['light', pytest.param('dark', marks=pytest.mark.soak)])
def test_the_report_is_usable_by_everybody(report, opened, scheme):
    page = opened(report, color_scheme=scheme, viewport=dict(width=390, height=900))
    assert serious_violations(page) == []
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    assert [line for line in page.noise if not line.startswith('data:')] == []


@pytest.mark.soak
@needs_browser
def test_no_table_of_the_report_is_cut_on_paper(report, opened):
    page = opened(report, viewport=dict(width=1000, height=900))
    page.emulate_media(media='print')
    assert page.locator('.scroll').first.evaluate('box => getComputedStyle(box).overflowX') == (
        'visible'
    )
    assert not page.locator('nav').is_visible()
