"""A study of released models through the command line: plan, run, list, tables, check, report."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT
from kit import clone_env, link_clone, reproduce_here
from test_own_study import invented_collection
from warm import reproduce_warm

from reproduce_kit.data.collection import write_collection
from reproduce_kit.testing.fake_rerankers import fake_reranker, released_settings

NAMES = ['tiny-bert-reranker', 'tiny-modernbert-reranker']
PRINTED = """backbone,optimizer,epoch,measure,test_set,printed,source
tiny-bert-reranker,,0,nDCG@10,test,{right:.4f},model card
tiny-bert-reranker,,0,nDCG@10,more,{more:.4f},model card
tiny-modernbert-reranker,,0,nDCG@10,test,0.9990,model card
"""


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    root = link_clone(tmp_path_factory.mktemp('clone'))
    for folder in ('zoo', 'smoke'):
        (root / 'params' / folder).mkdir()
    shutil.copy(ROOT / 'params/smoke/backbones.yaml', root / 'params/smoke')
    shutil.copy(ROOT / 'params/smoke/rerankers.yaml', root / 'params/smoke')
    texts = invented_collection()
    texts.topics['more'], texts.qrels['more'] = texts.topics['dev'], texts.qrels['dev']
    write_collection(texts, root / 'texts')
    settings = released_settings(
        study='zoo',
        name='tiny',
        collection=str(root / 'texts'),
        passage_words=None,
        test_topics=None,
        test_sets=['test', 'more'],
        reranker=NAMES,
        depth=10,
    )
    (root / 'params/zoo/tiny.yaml').write_text(yaml.safe_dump(settings))
    for name in NAMES:
        fake_reranker(name)
    return root


@pytest.fixture(scope='module')
def env(clone):
    return clone_env(clone)


@pytest.fixture(scope='module')
def finished(clone, env):
    p = reproduce_warm('run', 'params/zoo', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


def rows(clone, env):
    p = reproduce_here('list', clone / 'params/zoo', '--json', env=env)
    return {row['name']: row for row in json.loads(p.stdout)}


def test_it_says_that_models_are_measured_not_trained(finished):
    assert '2 to measure' in finished and 'after epoch' not in finished
    assert '2 made, 0 done before, 0 failed' in finished


def test_a_second_run_has_nothing_to_do(finished, clone, env):
    assert {row['state'] for row in rows(clone, env).values()} == {'done'}


def test_its_table_has_a_row_for_each_model(finished, clone, env):
    p = reproduce_warm('tables', '--study', 'zoo', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    table = (clone / 'paper/tables/table1.tex').read_text()
    assert 'Tiny BERT reranker' in table and 'Tiny ModernBERT reranker' in table
    p = reproduce_warm('why', clone / 'paper/tables/table1.tex', '--json', env=env, cwd=clone)
    assert {cell['check'] for cell in json.loads(p.stdout)['cells']} <= {
        'matches',
        'source matches',
    }


def test_its_report_speaks_of_no_training(finished, clone, env):
    p = reproduce_warm('report', 'zoo', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    page = (clone / 'runs/zoo/report.html').read_text()
    assert 'Tiny BERT reranker, as released' in page and 'Nothing was trained' in page


def test_printed_numbers_get_verdicts_set_by_set(finished, clone, env):
    (folder,) = (clone / 'runs/zoo/released').glob('tiny-tiny-bert-*')
    means = json.loads((folder / 'epoch-0/metrics.json').read_text())['means']
    scores = dict(right=means['test']['nDCG@10'], more=means['more']['nDCG@10'])
    (clone / 'params/zoo/published.csv').write_text(PRINTED.format(**scores))
    p = reproduce_warm('check', 'zoo', '--json', env=env, cwd=clone)
    cells = {(c['model'], c['measure']): c for c in json.loads(p.stdout)['cells']}
    bert = 'Tiny BERT reranker'
    assert cells[bert, 'nDCG@10 on test']['state'] in ('reproduced', 'compatible')
    assert cells[bert, 'nDCG@10 on more']['state'] in ('reproduced', 'compatible')
    assert cells['Tiny ModernBERT reranker', 'nDCG@10 on test']['state'] == 'differs'


def test_a_released_model_is_not_pushed_again(finished, clone, env):
    p = reproduce_here('push', 'tiny-tiny-bert-reranker', '--to', 'a/b', env=env)
    assert p.returncode == 1 and 'nothing to push' in p.stderr


def test_the_papers_checkpoints_are_to_be_looked_up_first():
    p = reproduce_here('run', ROOT / 'params/lion-vs-adamw/released')
    assert p.returncode == 1
    assert 'without its commit; `reproduce data pin lion-vs-adamw`' in p.stderr
    assert '\n' not in p.stderr.strip()
