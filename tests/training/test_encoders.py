"""Encoders of our own: pre-trained, fine-tuned as cross-encoders, taught as bi-encoders, through the command line; and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT
from kit import reproduce

from reproduce_kit.cli.app import main
from reproduce_kit.config.files import example_settings, make_config
from reproduce_kit.core import KitError
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.models.pooling import pool, pooling_plan
from reproduce_kit.models.tite import (
    TiteConfig,
    TiteForSequenceClassification,
    TiteModel,
    save_bi_encoder,
    tite_tokenizer,
)


@pytest.fixture
def clone(tmp_path):
    """A clone whose TITE study takes seconds: the same files with fewer updates, topics and pairs."""
    (tmp_path / 'pyproject.toml').write_text((ROOT / 'pyproject.toml').read_text())
    (tmp_path / 'nbs').symlink_to(ROOT / 'nbs')
    from reproduce_kit.data.collection import Collection, write_collection

    g = np.random.default_rng(2)
    words = [a + b + c for a in 'bdgk' for b in 'aeio' for c in 'lnrs']
    about = [g.choice(words, 6, replace=False) for _ in range(20)]
    corpus = {f'd{i}': ' '.join(g.choice(about[i % 20], 12)) for i in range(200)}
    topics = {f'q{i}': ' '.join(g.choice(about[i % 20], 5)) for i in range(90)}
    split = {
        s: dict(list(topics.items())[a:b])
        for s, a, b in (('train', 0, 60), ('dev', 60, 75), ('test', 75, 90))
    }
    write_collection(
        Collection(
            'mini',
            corpus,
            split,
            {
                s: {q: {f'd{i}': 1 for i in range(200) if i % 20 == int(q[1:]) % 20} for q in t}
                for s, t in split.items()
            },
        ),
        tmp_path / 'mini',
    )
    small = dict(collection=str(tmp_path / 'mini'), passage_words=None, test_topics=None)
    few = {
        'encoders': dict(updates=6, batch=8, warmup=1, log_updates=2, save_updates=2, texts=60),
        'controlled': small
        | dict(
            train_pairs=64,
            dev_pairs=20,
            depth=4,
            epochs=1,
            select_on='none',
            global_batch=16,
            device_batch=16,
            log_steps=1,
            save_steps=2,
        ),
        'bi-encoders': small
        | dict(
            updates=4,
            batch=4,
            warmup=1,
            log_updates=2,
            save_updates=2,
            train_topics=24,
            depth=6,
            passages=3,
            teacher='params/tite/controlled/tite-k2-adamw.yaml',
        ),
    }
    for kind, changes in few.items():
        (tmp_path / 'params/tite' / kind).mkdir(parents=True)
        for f in (ROOT / 'params/tite' / kind).glob('*tite-k2*'):
            if f.stem != 'tite-k2-lion':
                (tmp_path / 'params/tite' / kind / f.name).write_text(
                    yaml.safe_dump(yaml.safe_load(f.read_text()) | changes)
                )
    return tmp_path


def test_a_study_from_text_to_a_bi_encoder(clone, monkeypatch):
    """One command: the encoder first, the run that starts from it, the bi-encoder that the run teaches; again, and nothing is left to do."""
    env = dict(REPRODUCE_ROOT=clone, REPRODUCE_RUNS=clone / 'runs', REPRODUCE_PAPER=clone / 'paper')
    early = reproduce('run', clone / 'params/tite/bi-encoders/tite-k2.yaml', env=env)
    assert (
        early.returncode == 1
        and 'is not trained yet' in early.stderr
        and not (clone / 'runs/tite/encoders').exists()
    ), early.stdout + early.stderr  # before the encoder is pre-trained for nothing
    p = reproduce('run', clone / 'params/tite', env=env)
    assert p.returncode == 0, p.stdout + p.stderr
    assert (
        p.stdout.index('tite-k2-docs')
        < p.stdout.index('tite-k2-adamw')
        < p.stdout.index('nDCG@10', p.stdout.index('[1/1] tite-k2:'))
    )
    (encoder,), (run,), (bi,) = (
        [*(clone / 'runs/tite' / k).glob('*/done.json')]
        for k in ('encoders', 'controlled', 'bi-encoders')
    )
    e, b = json.loads(encoder.read_text()), json.loads(bi.read_text())
    manifest = json.loads((run.parent / 'manifest.json').read_text())
    assert (
        manifest['data']['weights'] == e['weights'] == b['encoder']['weights']
        and (bi.parent / 'distil.ipynb').exists()
        and (encoder.parent / 'pretrain.ipynb').exists()
    )
    for k, v in env.items():
        monkeypatch.setenv(k, str(v))

    def ask(*args):
        r = CliRunner().invoke(main, [*map(str, args)])
        return r.exit_code, r.stdout, r.stderr

    rows = {r['name']: r for r in json.loads(ask('list', clone / 'params/tite', '--json')[1])}
    assert {n: r['state'] for n, r in rows.items()} == {
        'tite-k2-docs': 'done',
        'tite-k2-adamw': 'done',
        'tite-k2': 'done',
    } and rows['tite-k2']['epochs']['1'] == b['means']['test']['nDCG@10']
    assert json.loads(ask('run', clone / 'params/tite', '--json')[1])['skipped'] == [
        'tite-k2-docs',
        'tite-k2-adamw',
        'tite-k2',
    ]
    assert (
        'made where the run store is'
        in ask('run', clone / 'params/tite', '--on', 'modal', '--yes')[2]
    )
    with open(encoder.parent / 'encoder/model.safetensors', 'ab') as f:
        f.write(b' ')
    assert ask('run', clone / 'params/tite')[0] == 0
    shutil.rmtree(run.parent)
    code, out, err = ask('run', clone / 'params/tite/controlled')
    assert code == 1 and 'was changed after its pre-training' in out + err, out + err


def test_an_encoder_that_is_not_there_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    with pytest.raises(KitError, match='reproduce run params/tite/encoders/tite-k2-docs.yaml'):
        load_backbone(make_config(example_settings(backbone='tite-k2-docs', layers=6)))
    with pytest.raises(KitError, match='whose 6 belong together'):
        make_config(example_settings(backbone='tite-k2-docs', layers=3))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(3)
    words = ['[PAD]', '[UNK]', '[SEP]', '[MASK]', *(f'w{i}' for i in range(40))]
    tok = tite_tokenizer(words, 16)
    c = dict(
        vocab_size=44,
        num_hidden_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        kernel_size=2,
        stride=2,
        max_position_embeddings=16,
    )
    save_bi_encoder(TiteModel(TiteConfig(**c)), tok, tmp_path / 'bi')
    TiteForSequenceClassification(TiteConfig(**c, num_labels=1)).save_pretrained(tmp_path / 'cross')
    tok.save_pretrained(tmp_path / 'cross')
    return tmp_path


def test_odd_texts(saved):
    """An empty text is a vector of zeros; too long a pair is cut by the tokenizer, its longer text first; neither changes its neighbours."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    bi, cross = (
        SentenceTransformer(str(saved / 'bi'), device='cpu'),
        CrossEncoder(str(saved / 'cross'), device='cpu'),
    )
    v = bi.encode(['', 'w1 w2', '   ', 'w1 w2 ' * 40])
    assert (
        (v[[0, 2]] == 0).all()
        and abs(v[1] - bi.encode('w1 w2')).max() < 1e-6
        and abs(v[3] - bi.encode('w1 w2 ' * 8)).max() < 1e-6
    )
    assert bi.encode(['']).shape == (1, 32) and not bi.encode(['']).any()
    pairs = [('w1', 'w2'), ('w1', ''), ('', ''), ('w1 w3', 'w2 ' * 50), ('w1 ' * 50, 'w2 ' * 50)]
    s = cross.predict(pairs, batch_size=5)
    assert (
        abs(s - [float(cross.predict([p])[0]) for p in pairs]).max() < 1e-6
        and abs(s[3] - cross.predict([('w1 w3', 'w2 ' * 13)])[0]) < 1e-6
    )
    ids = cross.tokenizer('w1 w3', 'w2 ' * 50)[
        'input_ids'
    ]  # nobody asked for a cut, so nothing is cut, and the model refuses
    with pytest.raises(
        KitError,
        match='a sequence of 53 tokens would end in 4 vectors instead of one; this model takes 16',
    ):
        cross.model(input_ids=torch.tensor([ids]))


class Trap(torch.autograd.Function):
    """Pooling whose hand-written backward sends a window's gradient to the next window's tokens."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        return x.view(-1, k, x.shape[1]).mean(1)

    @staticmethod
    def backward(ctx, g):
        return g.roll(1, 0).repeat_interleave(ctx.k, 0) / ctx.k, None


def test_the_pooling_test_sees_the_classic_trap():
    """A cotangent that is the same everywhere cannot tell the trap from the truth; the one that our gradient test uses can."""
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 3, dtype=torch.float64)
    (step,) = pooling_plan([8], [2], [2])
    assert torch.autograd.gradcheck(
        lambda x: Trap.apply(x, 2).sum(), x
    ) and not torch.autograd.gradcheck(lambda x: Trap.apply(x, 2) * w, x, raise_exception=False)
    assert torch.autograd.gradcheck(lambda x: pool(x, step) * w, x)
