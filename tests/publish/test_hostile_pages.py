"""Texts that want to be code: in every page of the kit, and in its LaTeX, they stay texts."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import yaml
from browser import chromium, needs_browser
from bs4 import BeautifulSoup
from conftest import ROOT
from kit import link_clone, write_yaml

from reproduce_kit.config.files import read_runs
from reproduce_kit.data.collection import EvalSet
from reproduce_kit.evaluation.metrics import MEASURES
from reproduce_kit.publish.report import report
from reproduce_kit.publish.scoreboard import write_scoreboard
from reproduce_kit.publish.topic_differences import Ranking, compare
from reproduce_kit.publish.topic_page import View, write_page
from reproduce_kit.results.latex import table_latex
from reproduce_kit.results.table import Table
from reproduce_kit.testing.fake_runs import fake_run
from reproduce_kit.verdicts.claims import read_claims

SCRIPT = (
    '</style></title>"\'><script>document.title = "taken"</script>'
    '<img src=x onerror="document.title=\'taken\'">'
)
FORMAT = '{layers.__class__} {layers:>9999999}'
PAGES = ('report', 'scoreboard', 'topics')


def findings() -> pd.DataFrame:
    """What a study of somebody else found."""
    return pd.DataFrame({f'finding {SCRIPT}': [SCRIPT], 'state': [SCRIPT]})


def write_study(folder):
    """A study whose every free text is hostile."""
    (folder / 'claims').mkdir(parents=True)
    backbones = yaml.safe_load((ROOT / 'params/embedded/backbones.yaml').read_text())
    backbones['minilm-l6-h384']['title'] = f'{SCRIPT} {FORMAT}'
    (folder / 'backbones.yaml').write_text(yaml.safe_dump(backbones))
    changes = dict(study='evil', recipe='first', backbone='minilm-l6-h384', layers=6)
    config = write_yaml(folder, 'a', **changes)
    publication = dict(title=SCRIPT, authors=[SCRIPT], venue=SCRIPT, doi=f'10.1/{SCRIPT}')
    section = dict(title=SCRIPT, question=SCRIPT, function='test_hostile_pages:findings')
    study = dict(publication=publication, findings=section, pages=[])
    (folder / 'study.yaml').write_text(yaml.safe_dump(study))
    claim = dict(id=SCRIPT, where=SCRIPT, words=SCRIPT, why=SCRIPT)
    claims = dict(title=SCRIPT, over=None, claims=[claim])
    (folder / 'claims/paper.yaml').write_text(yaml.safe_dump(claims))
    row = dict(backbone='minilm-l6-h384', optimizer=SCRIPT, epoch=1, measure='nDCG@10')
    row |= dict(test_set='test', printed='0.5', source=SCRIPT)
    pd.DataFrame([row]).to_csv(folder / 'published.csv', index=False)
    return config


def finished(config):
    """A run on topics and passages that are hostile, too."""
    topics = {f'q{n}{SCRIPT}'.replace(' ', ''): f'{SCRIPT} {n}' for n in range(4)}
    index = pd.Index(list(topics), name='qid')
    frame = pd.DataFrame(dict.fromkeys(MEASURES, np.linspace(0.2, 0.8, 4)), index=index)
    corpus = {f'd{n}': SCRIPT for n in range(3)}
    sets = {name: EvalSet(name, topics, {}, {}, corpus, 'made up') for name in config.test_sets}
    by_epoch = {n: dict.fromkeys(config.test_sets, frame) for n in config.measured_epochs}
    return fake_run(config, by_epoch, sets)


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """{page: its file} of the hostile study."""
    root = link_clone(tmp_path_factory.mktemp('hostile') / 'clone')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REPRODUCE_ROOT', str(root))
        patch.setenv('REPRODUCE_RUNS', str(root / 'runs'))
        (config,) = read_runs(write_study(root / 'params/evil'))
        run = finished(config)
        compared = compare(Ranking(run, 1, SCRIPT), Ranking(run, None, SCRIPT), 'test', 'nDCG@10')
        view = View(compared, topic=compared.table.index[0])
        assert read_claims('evil')[0].claims[0].words == SCRIPT
        yield dict(
            report=report('evil'), scoreboard=write_scoreboard('evil'), topics=write_page(view)
        )
        run.lock.release(force=True)


@pytest.mark.parametrize('name', PAGES)
def test_texts_are_no_code_of_a_page(pages, name):
    text = pages[name].read_text('utf-8')
    page = BeautifulSoup(text, 'html.parser')
    scripts = 1 if name == 'scoreboard' else 0
    assert len(page.find_all('script')) == scripts and len(page.find_all('style')) == 1
    assert all(image['src'].startswith('data:') for image in page.find_all('img'))
    assert not [tag for tag in page.find_all() if any(key.startswith('on') for key in tag.attrs)]
    assert page.main.text.count('<script>') >= 3
    assert '__class__' not in text or FORMAT in page.main.text


@pytest.mark.parametrize('name', PAGES)
def test_a_page_has_a_policy_that_names_its_own_parts_only(pages, name):
    page = BeautifulSoup(pages[name].read_text('utf-8'), 'html.parser')
    policy = page.find('meta', attrs={'http-equiv': 'Content-Security-Policy'})['content']
    rules = dict(rule.split(maxsplit=1) for rule in policy.split('; '))
    assert rules['default-src'] == rules['base-uri'] == rules['form-action'] == "'none'"
    assert rules['img-src'] == 'data:'
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules['style-src'])
    assert re.fullmatch(r"'(none|sha256-[\w+/]{43}=)'", rules['script-src'])


# --- in a browser ---


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


def opened(browser, path) -> tuple:  # (page, what it complained of, what it asked for)
    page, noise, asked = browser.new_page(), [], []
    page.on('console', lambda message: noise.append(message.text))
    page.on('pageerror', lambda error: noise.append(str(error)))
    page.on('requestfinished', lambda request: asked.append(request.url))
    page.goto(f'file://{path}')
    return page, noise, [url for url in asked[1:] if not url.startswith('data:')]


@needs_browser
@pytest.mark.parametrize('name', PAGES)
def test_a_browser_runs_nothing_of_a_text_and_blocks_nothing_of_a_page(pages, browser, name):
    page, noise, asked = opened(browser, pages[name])
    assert page.title() != 'taken' and noise == [] and asked == []
    assert '<script>' in page.locator('main').inner_text()
    assert page.evaluate('document.styleSheets.length') == 1  # it was not blocked
    page.close()


@needs_browser
@pytest.mark.parametrize('name', PAGES)
def test_a_script_that_got_into_a_page_is_not_run(pages, browser, tmp_path, name):
    """As if a text had not been escaped."""
    injected = (
        f'<p>{SCRIPT}</p><a href="javascript:document.title=\'taken\'" id=link>link</a></main>'
    )
    path = tmp_path / 'page.html'
    path.write_text(pages[name].read_text('utf-8').replace('</main>', injected, 1), 'utf-8')
    page, noise, asked = opened(browser, path)
    page.locator('#link').dispatch_event('click')
    assert page.title() != 'taken'
    assert sum('Content Security Policy' in text for text in noise) >= 3, noise
    assert asked == []
    page.close()


# --- LaTeX ---


COMMAND = r'\input{/etc/passwd}\immediate\write18{touch taken}%$#&_{}~^^5cinput'


def hostile_table(**options) -> Table:
    table = Table('hostile', f'Caption {COMMAND}', (COMMAND,), **options)
    table.add(COMMAND, COMMAND, COMMAND, is_best=True)
    table.add((COMMAND), 'other', f'{COMMAND} ± 5 %')
    return table


@pytest.mark.parametrize('is_long', [False, True], ids=['short', 'over pages'])
def test_no_command_of_a_text_is_one_of_latex(is_long):
    latex = table_latex(hostile_table(long=is_long))
    commands = set(re.findall(r'(?<!\\)\\([A-Za-z]+)', latex))
    assert commands.isdisjoint({'input', 'immediate', 'write', 'openout', 'catcode', 'csname'})
    assert latex.count(r'\textbackslash{}input\{/etc/passwd\}') >= 5
    assert 'input{' not in latex
    assert '^^' not in latex and not re.search(r'(?<!\\)%', latex)


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='no LaTeX: pdflatex is not installed')
def test_latex_prints_the_commands_of_a_text(tmp_path):
    body = table_latex(hostile_table())
    packages = r'\usepackage[T1]{fontenc}\usepackage{booktabs,array,amsmath}'
    document = (
        rf'\documentclass{{article}}{packages}\begin{{document}}\begin{{table}}{body}'
        r'\end{table}\end{document}'
    )
    (tmp_path / 'page.tex').write_text(document)
    command = [
        'pdflatex',
        '-interaction=nonstopmode',
        '-halt-on-error',
        '-shell-escape',
        'page.tex',
    ]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-1500:]
    assert '(/etc/passwd' not in made.stdout and not (tmp_path / 'taken').exists()
