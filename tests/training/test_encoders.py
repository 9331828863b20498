"""Encoders of the kit.

Pre-trained, fine-tuned as cross-encoders, and taught as bi-encoders, by the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from kit import reproduce, reproduce_here
from sentence_transformers import CrossEncoder, SentenceTransformer

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection, write_collection
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.models.tite import TiteForSequenceClassification, TiteModel
from reproduce_kit.models.tite_config import TiteConfig
from reproduce_kit.models.tite_files import save_bi_encoder, tite_tokenizer

# A study of seconds


def write_mini_collection(folder: Path):
    """200 documents and 90 topics about 20 subjects.

    Documents of a topic's subject are relevant."""
    g = np.random.default_rng(2)
    words = [a + b + c for a in 'bdgk' for b in 'aeio' for c in 'lnrs']
    subjects = [g.choice(words, 6, replace=False) for _ in range(20)]
    corpus = {f'd{i}': ' '.join(g.choice(subjects[i % 20], 12)) for i in range(200)}
    topics = {f'q{i}': ' '.join(g.choice(subjects[i % 20], 5)) for i in range(90)}
    names = list(topics)
    splits = dict(train=names[:60], dev=names[60:75], test=names[75:])
    topics_by_split = {s: {q: topics[q] for q in split} for s, split in splits.items()}
    relevant = {q: {f'd{i}': 1 for i in range(int(q[1:]) % 20, 200, 20)} for q in names}
    qrels = {s: {q: relevant[q] for q in split} for s, split in splits.items()}
    write_collection(Collection('mini', corpus, topics_by_split, qrels), folder)


def smaller(collection: Path) -> dict:  # {kind of parameter file: changed keys}
    source = dict(collection=str(collection), passage_words=None, test_topics=None)
    saves = dict(log_updates=2, save_updates=2)
    run = dict(train_pairs=64, dev_pairs=20, depth=4, epochs=1, select_on='none')
    batches = dict(global_batch=16, device_batch=16, log_steps=1, save_steps=2)
    teacher = dict(teacher='params/tite/controlled/tite-k2-adamw.yaml')
    topics = dict(train_topics=24, depth=6, passages=3)
    return {
        'encoders': dict(updates=6, batch=8, warmup=1, texts=60) | saves,
        'controlled': source | run | batches,
        'bi-encoders': source | dict(updates=4, batch=4, warmup=1) | saves | topics | teacher,
    }


@pytest.fixture
def clone(tmp_path):
    """A clone of the TITE study: the same files with fewer updates, topics and pairs."""
    (tmp_path / 'pyproject.toml').write_text((ROOT / 'pyproject.toml').read_text())
    (tmp_path / 'nbs').symlink_to(ROOT / 'nbs')
    write_mini_collection(tmp_path / 'mini')
    for kind, changes in smaller(tmp_path / 'mini').items():
        folder = tmp_path / 'params/tite' / kind
        folder.mkdir(parents=True)
        for path in (ROOT / 'params/tite' / kind).glob('*tite-k2*'):
            settings = yaml.safe_load(path.read_text()) | changes
            (folder / path.name).write_text(yaml.safe_dump(settings))
    shutil.copy(ROOT / 'params/tite/backbones.yaml', tmp_path / 'params/tite')
    return tmp_path


@pytest.fixture
def environment(clone, monkeypatch) -> dict:
    """The variables that point the kit at the clone, also set for this process."""
    variables = dict(
        REPRODUCE_ROOT=clone, REPRODUCE_RUNS=clone / 'runs', REPRODUCE_PAPER=clone / 'paper'
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return variables


def done_files(clone) -> list:
    """done.json of the encoder, the run and the bi-encoder."""
    files = []
    for kind in ('encoders', 'controlled', 'bi-encoders'):
        (file,) = (clone / 'runs/tite' / kind).glob('*/done.json')
        files.append(file)
    return files


def check_files(clone):
    """All three start from the same weights, and each folder has its page."""
    encoder, run, bi_encoder = done_files(clone)
    weights = json.loads(encoder.read_text())['weights']
    manifest = json.loads((run.parent / 'manifest.json').read_text())
    assert manifest['data']['weights'] == weights
    assert json.loads(bi_encoder.read_text())['encoder']['weights'] == weights
    assert (encoder.parent / 'pretrain.ipynb').exists()
    assert (bi_encoder.parent / 'distil.ipynb').exists()


def check_list(clone):
    """`reproduce list` has all three as done, with the bi-encoder's nDCG@10."""
    bi_encoder = json.loads(done_files(clone)[2].read_text())
    listed = reproduce_here('list', clone / 'params/tite', '--json').stdout
    rows = {row['name']: row for row in json.loads(listed)}
    states = {name: row['state'] for name, row in rows.items()}
    assert states == {'tite-k2-docs': 'done', 'tite-k2-adamw': 'done', 'tite-k2': 'done'}
    assert rows['tite-k2']['epochs']['1'] == bi_encoder['means']['test']['nDCG@10']


def test_a_bi_encoder_before_its_teacher_is_an_error_and_nothing_is_trained_in_vain(
    clone, environment
):
    too_early = reproduce_here('run', clone / 'params/tite/bi-encoders/tite-k2.yaml')
    assert too_early.returncode == 1
    assert 'is not trained yet' in too_early.stderr
    assert not (clone / 'runs/tite/encoders').exists()


@pytest.mark.soak
def test_a_study_from_text_to_a_bi_encoder(clone, environment):
    """One command: first the encoder, then the run that starts from it, then the bi-encoder
    that the run teaches."""
    process = reproduce('run', clone / 'params/tite', env=environment)
    output = process.stdout
    assert process.returncode == 0, output + process.stderr
    measured = output.index('nDCG@10', output.index('[1/1] tite-k2:'))
    assert output.index('tite-k2-docs') < output.index('tite-k2-adamw') < measured
    check_files(clone)
    check_list(clone)

    again = json.loads(reproduce_here('run', clone / 'params/tite', '--json').stdout)
    assert again['skipped'] == ['tite-k2-docs', 'tite-k2-adamw', 'tite-k2']
    on_modal = reproduce_here('run', clone / 'params/tite', '--on', 'modal', '--yes')
    assert 'made where the run store is' in on_modal.stderr

    encoder, run, _ = done_files(clone)
    with open(encoder.parent / 'encoder/model.safetensors', 'ab') as file:
        file.write(b' ')
    assert (
        reproduce_here('run', clone / 'params/tite').returncode == 0
    )  # finished runs do not read it
    shutil.rmtree(run.parent)
    changed = reproduce_here('run', clone / 'params/tite/controlled')
    assert changed.returncode == 1
    assert 'was changed after its pre-training' in changed.stdout + changed.stderr


def test_a_missing_encoder_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    command = 'reproduce run params/tite/encoders/tite-k2-docs.yaml'
    with pytest.raises(KitError, match=command):
        load_backbone(make_config(example_settings(backbone='tite-k2-docs', layers=6)))


def test_an_encoder_of_the_kit_keeps_all_its_layers():
    with pytest.raises(KitError, match='whose 6 belong together'):
        make_config(example_settings(backbone='tite-k2-docs', layers=3))


# Odd texts


@pytest.fixture
def saved(tmp_path):
    """A bi-encoder in `bi`, a cross-encoder in `cross`; both take 16 tokens, words are w0 ...

    W39."""
    torch.manual_seed(3)
    words = ['[PAD]', '[UNK]', '[SEP]', '[MASK]', *(f'w{i}' for i in range(40))]
    tokenizer = tite_tokenizer(words, 16)
    config = dict(
        vocab_size=44,
        num_hidden_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        kernel_size=2,
        stride=2,
        max_position_embeddings=16,
    )
    save_bi_encoder(TiteModel(TiteConfig(**config)), tokenizer, tmp_path / 'bi')
    cross = TiteForSequenceClassification(TiteConfig(**config, num_labels=1))
    cross.save_pretrained(tmp_path / 'cross')
    tokenizer.save_pretrained(tmp_path / 'cross')
    return tmp_path


def test_an_empty_text_is_zeros_and_a_long_text_is_cut(saved):
    encoder = SentenceTransformer(str(saved / 'bi'), device='cpu')
    empty, short, spaces, long = encoder.encode(['', 'w1 w2', '   ', 'w1 w2 ' * 40])
    assert not empty.any() and not spaces.any()
    assert abs(short - encoder.encode('w1 w2')).max() < 1e-6
    assert abs(long - encoder.encode('w1 w2 ' * 8)).max() < 1e-6
    alone = encoder.encode([''])
    assert alone.shape == (1, 32) and not alone.any()


def test_a_pairs_longer_text_is_cut_first(saved):
    scorer = CrossEncoder(str(saved / 'cross'), device='cpu')
    pairs = [('w1', 'w2'), ('w1', ''), ('', ''), ('w1 w3', 'w2 ' * 50), ('w1 ' * 50, 'w2 ' * 50)]
    scores = scorer.predict(pairs, batch_size=5)
    alone = [float(scorer.predict([pair])[0]) for pair in pairs]
    cut = scorer.predict([('w1 w3', 'w2 ' * 13)])[0]
    assert abs(scores - alone).max() < 1e-6
    assert abs(scores[3] - cut) < 1e-6


def test_without_truncation_a_long_pair_is_an_error(saved):
    scorer = CrossEncoder(str(saved / 'cross'), device='cpu')
    ids = scorer.tokenizer('w1 w3', 'w2 ' * 50)['input_ids']
    message = 'a sequence of 53 tokens would end in 4 vectors instead of one; this model takes 16'
    with pytest.raises(KitError, match=message):
        scorer.model(input_ids=torch.tensor([ids]))
