"""A study that is written under `params/` alone: texts, backbone, optimizer, loss and measures."""

import gzip
import json

import numpy as np
import pytest
import yaml
from kit import SMOKE, clone_env, link_clone, reproduce_here
from small_encoders import save_backbone
from warm import reproduce_warm

from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.testing.fake_hub import fake_words

MINE = dict(
    study='mine',
    recipe='first',
    backbone='my-roberta',
    layers=2,
    max_length=48,
    passage_words=None,
    test_topics=None,
    loss='ListNetLoss',
    negatives=3,
    train_pairs=64,
    dev_pairs=16,
    global_batch=16,
    device_batch=16,
    hard_share=0.5,
    depth=20,
    epochs=1,
)
OPTIMIZERS = {
    'adamw': dict(optimizer='adamw', learning_rate=1.0e-3, beta2=0.999),
    'muon': dict(
        optimizer='torch.optim:Muon',
        learning_rate=1.0e-3,
        beta1=None,
        beta2=None,
        rest='adamw',
        rest_learning_rate=1.0e-3,
    ),
}


def invented_collection() -> Collection:
    """Topics that share words with their one relevant passage."""
    rng = np.random.default_rng(12)
    words = fake_words()
    corpus = {f'd{i}': ' '.join(rng.choice(words, 12)) for i in range(80)}
    topics, qrels = {}, {}
    for split, numbers in (('train', range(40)), ('dev', range(40, 50)), ('test', range(50, 70))):
        topics[split] = {f'q{i}': ' '.join(corpus[f'd{i}'].split()[:3]) for i in numbers}
        qrels[split] = {f'q{i}': {f'd{i}': 1} for i in numbers}
    return Collection('invented', corpus, topics, qrels)


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder that is a clone to the kit: its notebooks, and one study."""
    root = link_clone(tmp_path_factory.mktemp('clone'))
    folder = root / 'params/mine'
    folder.mkdir()
    write_collection(invented_collection(), root / 'texts')
    backbones = {'my-roberta': save_backbone(root, 'roberta') | dict(title='My RoBERTa')}
    (folder / 'backbones.yaml').write_text(yaml.safe_dump(backbones))
    (folder / 'study.yaml').write_text('measures: [nDCG@20, R@100]\n')
    for name, changes in OPTIMIZERS.items():
        settings = SMOKE | MINE | changes | dict(name=name, collection=str(root / 'texts'))
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(settings))
    return root


CANARY = 'canary-7f3a9c51e2'
SECRETS = (
    *(
        'HF_TOKEN',
        'HUGGING_FACE_HUB_TOKEN',
        'MODAL_TOKEN_ID',
        'MODAL_TOKEN_SECRET',
        'WANDB_API_KEY',
    ),
    *('GITHUB_TOKEN', 'AWS_SECRET_ACCESS_KEY', 'OPENAI_API_KEY', 'KAGGLE_KEY', 'MY_PASSWORD'),
)


@pytest.fixture(scope='module')
def env(clone):
    """The environment of all commands of this file; a test below looks for its secrets."""
    return clone_env(clone) | dict.fromkeys(SECRETS, CANARY)


@pytest.fixture(scope='module')
def finished(clone, env):
    p = reproduce_warm('run', 'params/mine', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


def test_it_runs_and_names_its_leading_measure(finished):
    assert 'nDCG@20' in finished
    assert '2 made, 0 done before, 0 failed' in finished


def test_a_second_run_has_nothing_to_do(finished, clone, env):
    p = reproduce_here('list', clone / 'params/mine', '--json', env=env)
    rows = json.loads(p.stdout)
    assert {row['state'] for row in rows} == {'done'}
    assert {row['measure'] for row in rows} == {'test nDCG@20'}


def test_its_table_has_its_own_columns_and_names(finished, clone, env):
    p = reproduce_warm('tables', '--study', 'mine', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    table = (clone / 'paper/tables/table1.tex').read_text()
    assert 'nDCG@20 & R@100' in table
    assert 'My RoBERTa & AdamW & 1' in table and '& Muon & 1' in table
    assert not (clone / 'paper/tables/audit.tex').exists()  # of another study


def test_every_number_of_its_table_is_that_of_its_source(finished, clone, env):
    p = reproduce_warm('why', clone / 'paper/tables/table1.tex', '--json', env=env, cwd=clone)
    cells = json.loads(p.stdout)['cells']
    assert {cell['check'] for cell in cells} <= {'matches', 'source matches'}


def test_its_report_speaks_of_no_other_study(finished, clone, env):
    p = reproduce_warm('report', 'mine', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    page = (clone / 'runs/mine/report.html').read_text()
    assert 'My RoBERTa' in page and 'Muon minus AdamW' in page
    assert 'Lion' not in page


def test_its_checkpoint_is_measured_by_any_measure(finished, clone, env):
    (model,) = (clone / 'runs/mine/first').glob('muon-*/epoch-1/model')
    words = ['rerank', '--checkpoint', model, '--collection', clone / 'texts', '--split', 'test']
    p = reproduce_here(*words, '--measure', 'nDCG@5', '--measure', 'RBP(p=0.8)', env=env)
    assert p.returncode == 0, p.stderr
    assert 'nDCG@5 reranked minus first stage' in p.stdout and 'RBP(p=0.8)' in p.stdout
    p = reproduce_here(*words, '--measure', 'nDGC@5', env=env)
    assert p.returncode == 1 and 'is no measure of ir-measures' in p.stderr


@pytest.mark.parametrize('command', ['run', 'plan', 'list'])
def test_an_unknown_measure_is_told_before_anything_starts(command, clone, env, tmp_path):
    study = clone / 'params/mine/study.yaml'
    kept = study.read_text()
    study.write_text('measures: [nDGC@20]\n')
    p = reproduce_here(command, clone / 'params/mine', env=env | dict(REPRODUCE_RUNS=tmp_path))
    study.write_text(kept)
    assert p.returncode == 1
    assert 'params/mine/study.yaml' in p.stderr
    assert 'is no measure of ir-measures' in p.stderr
    assert not list(tmp_path.iterdir())


PRINTED = """backbone,optimizer,epoch,measure,test_set,printed,source
my-roberta,AdamW,1,nDCG@20,test,0.9990,Table 1
my-roberta,Muon,1,nDCG@20,test,{muon:.4f},Table 1
my-roberta,Muon,2,nDCG@20,test,0.5,Table 1
"""


def test_printed_numbers_get_verdicts(finished, clone, env):
    p = reproduce_here('list', clone / 'params/mine', '--json', env=env)
    muon = next(row for row in json.loads(p.stdout) if row['name'] == 'muon')['epochs']['1']
    file = clone / 'params/mine/published.csv'
    file.write_text(PRINTED.format(muon=muon))
    p = reproduce_warm('check', 'mine', '--json', env=env, cwd=clone)
    cells = {(c['optimizer'], c['epoch']): c for c in json.loads(p.stdout)['cells']}
    assert cells['AdamW', 1]['state'] == 'differs'
    assert cells['Muon', 1]['state'] in ('reproduced', 'compatible')
    assert cells['Muon', 2]['state'] == 'not-comparable'
    assert p.returncode == 1
    file.write_text(PRINTED.format(muon=muon) + 'my-roberta,Muon,1,nDCG@20,test,0.7,Table 1\n')
    p = reproduce_warm('check', 'mine', env=env, cwd=clone)
    file.unlink()
    assert p.returncode == 1
    assert 'published.csv, line 5: the number of line 3 again' in p.stderr


CLAIMS = """title: the paper
claims:
- id: A-muon
  where: abstract
  words: Muon is best in nDCG@20
  holds: "'My RoBERTa + Muon' in won('nDCG@20')"
- id: A-recall
  where: Section 4
  words: AdamW finds more than four fifths of the relevant passages
  holds: peak('R@100', 'My RoBERTa', 'AdamW') > 0.8
  over: [our runs]
- id: A-memory
  where: Section 5
  words: AdamW keeps two values per parameter
  holds: state('adamw') > 1.9
  over: []
- id: A-better
  where: Section 4
  words: Muon is significantly better than AdamW
  holds: significant('Muon', 'AdamW', 'My RoBERTa', 'nDCG@20') == 1
"""
TWO_NUMBERS = """backbone,optimizer,epoch,measure,test_set,printed,source
my-roberta,AdamW,1,nDCG@20,test,0.9990,Table 1
my-roberta,Muon,1,nDCG@20,test,0.5000,Table 1
"""


def test_its_claims_are_judged_on_print_and_on_its_runs(finished, clone, env):
    folder = clone / 'params/mine'
    (folder / 'published.csv').write_text(TWO_NUMBERS)
    (folder / 'claims').mkdir()
    (folder / 'claims/paper.yaml').write_text(CLAIMS)
    p = reproduce_here('claims', 'mine', '--json', env=env)
    assert p.returncode == 0, p.stderr
    claims = {row['id']: row for row in json.loads(p.stdout)}
    assert claims['A-muon']['answers'].keys() == {'Table 1', 'our runs (first)'}
    assert claims['A-muon']['answers']['Table 1'] is False
    assert claims['A-recall']['answers'].keys() == {'our runs (first)'}
    assert claims['A-memory']['verdict'] == 'supported'
    assert claims['A-better']['answers'].keys() == {'our runs (first)'}
    p = reproduce_warm('report', 'mine', env=env, cwd=clone)
    assert p.returncode == 0, p.stderr
    page = (clone / 'runs/mine/report.html').read_text()
    assert 'Muon is best in nDCG@20' in page and 'Table 1' in page
    p = reproduce_warm('tables', '--study', 'mine', env=env, cwd=clone)
    assert p.returncode == 0, p.stdout + p.stderr
    assert 'A-recall' in (clone / 'paper/tables/claims-paper.tex').read_text()
    (folder / 'claims/paper.yaml').write_text(CLAIMS.replace('won(', 'wins('))
    p = reproduce_here('claims', 'mine', env=env)
    assert p.returncode == 1 and 'claim A-muon' in p.stderr and "did you mean 'won'" in p.stderr
    (folder / 'claims/paper.yaml').unlink()
    (folder / 'published.csv').unlink()


def test_a_measure_that_is_listed_later_is_told(finished, clone, env):
    study = clone / 'params/mine/study.yaml'
    kept = study.read_text()
    study.write_text('measures: [nDCG@20, P@5]\n')
    p = reproduce_warm('report', 'mine', env=env, cwd=clone)
    study.write_text(kept)
    assert p.returncode == 1
    assert 'was measured before its study listed P@5' in p.stderr


@pytest.fixture(scope='module')
def failed(clone, env):
    """What the command said of a run that fails in its notebook."""
    folder = clone / 'params/broken'
    folder.mkdir()
    changes = dict(study='broken', attention='flash_attention_2', precision='bf16')
    settings = SMOKE | MINE | OPTIMIZERS['adamw'] | changes | dict(name='fails')
    settings['collection'] = str(clone / 'texts')
    (folder / 'fails.yaml').write_text(yaml.safe_dump(settings))
    p = reproduce_warm('run', folder, env=env, cwd=clone)
    assert p.returncode == 1 and '1 failed' in p.stdout, p.stdout + p.stderr
    return p.stdout + p.stderr


def content_of(path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == '.gz' else content


def test_no_secret_is_written_or_said(finished, failed, clone, env):
    """Neither by the commands above nor by those that write for others."""
    for stale in (clone / 'paper').rglob('claims-paper.*'):
        stale.unlink()  # its claims are gone
    said = {'run': finished, 'failing run': failed}
    for words in (
        ('report', 'mine'),
        ('export', 'mine', '--crate', '--to', clone / 'crate'),
        ('plan', clone / 'params/mine/adamw.yaml', '--on', 'slurm', '--script'),
        ('doctor',),
    ):
        p = reproduce_here(*words, env=env)
        said[words[0]] = p.stdout + p.stderr
    assert 'sbatch' in said['plan'].lower(), said['plan']
    files = [path for path in clone.rglob('*') if path.is_file() and not path.is_symlink()]
    assert [path for path in files if path.name == 'failed.json'], failed
    kinds = {path.suffix for path in files}
    assert {'.ipynb', '.html', '.json', '.jsonl', '.gz', '.safetensors'} <= kinds, kinds
    assert (clone / 'crate/ro-crate-metadata.json').exists(), said['export']
    assert not [path for path in files if CANARY.encode() in content_of(path)]
    assert not [command for command, text in said.items() if CANARY in text]
