"""Losses by name: the library's own gradients, whatever is done to save time, and exact resumption."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import losses
from test_resume import TINY, assert_resumes

from reproduce_kit.config.files import make_config
from reproduce_kit.config.losses import LOSSES, LossShape
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import Collection
from reproduce_kit.data.pairs import draw_groups, group_rows
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model, fake_words
from reproduce_kit.training.cross_encoder import make_trainer, training_arguments

NEGATIVES = 3


def settings_of(loss):
    negatives = 1 if LOSSES[loss] is LossShape.PAIRS else NEGATIVES
    return TINY | dict(loss=loss, negatives=negatives, dropout=0.0, global_batch=8, device_batch=8)


@pytest.fixture(scope='module')
def collection():
    """Forty topics, each with one answer; words are of the small tokenizer."""
    rng = np.random.default_rng(7)
    words = fake_words()
    corpus = {f'd{i}': ' '.join(rng.choice(words, int(rng.integers(4, 20)))) for i in range(60)}
    topics = {f'q{i}': ' '.join(rng.choice(words, 3)) for i in range(40)}
    qrels = {topic: {f'd{i}': 1} for i, topic in enumerate(topics)}
    splits = dict(train=dict(list(topics.items())[:32]), dev=dict(list(topics.items())[32:]))
    return Collection('mini', corpus, splits, dict.fromkeys(splits, qrels))


def data_of(collection, loss, epochs=2) -> dict:
    """Two epochs for a loss, and what it is evaluated on."""
    import random

    rows = {}
    for split, count in (('train', 32), ('dev', 8)):
        rng = random.Random(f'{split}-1')
        rows[split] = []
        for _ in range(epochs if split == 'train' else 1):
            if LOSSES[loss] is LossShape.PAIRS:
                groups = draw_groups(collection, split, count // 2, 1, 0.0, {}, rng)
                rows[split] += [
                    dict(
                        query=collection.topics[split][group.topic],
                        passage=collection.corpus[docid],
                        label=float(docid == group.positive),
                    )
                    for group in groups
                    for docid in group.docids
                ]
                continue
            groups = draw_groups(collection, split, count // 4, NEGATIVES, 0.0, {}, rng)
            rows[split] += group_rows(groups, LOSSES[loss], collection, split)
    return {split: Dataset.from_list(part) for split, part in rows.items()}


def gradients(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def stock_gradients(model, loss, rows) -> torch.Tensor:
    """The library's loss over a batch, with nothing of ours but the weights."""
    columns = [name for name in rows.column_names if name not in ('label', 'labels')]
    labels = (
        rows['labels' if 'labels' in rows.column_names else 'label']
        if ({'label', 'labels'} & set(rows.column_names))
        else None
    )
    if LOSSES[loss] is LossShape.PAIRS:
        labels = torch.tensor(labels)
    elif labels is not None:
        labels = [torch.tensor(each) for each in labels]
    model.train()
    model.zero_grad()
    value = getattr(losses, loss)(model)([list(rows[name]) for name in columns], labels)
    value.backward()
    return gradients(model)


@pytest.mark.parametrize('loss', LOSSES)
def test_an_update_has_the_gradient_of_the_library(collection, loss):
    fake_model('tiny-bert')
    run = open_run(make_config(settings_of(loss) | dict(name=f'gradient-{loss.lower()}')))
    model, data = load_backbone(run.cfg), data_of(collection, loss)
    trainer = make_trainer(run, model, training_arguments(run, len(data['dev'])), data)
    batch = data['train'].select(range(8 // run.cfg.group))
    torch.manual_seed(5)
    np.random.seed(5)
    inputs = trainer.data_collator([dict(row) for row in batch])
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1  # set by the loop that is not run here
    trainer.training_step(model, inputs)
    ours = gradients(model)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = stock_gradients(model, loss, batch)
    assert ours.abs().max() > 0
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


RESUMED = ('MSELoss', 'ListNetLoss', 'CachedMultipleNegativesRankingLoss')


@pytest.mark.parametrize('loss', [*RESUMED[:2], pytest.param(RESUMED[2], marks=pytest.mark.soak)])
def test_a_killed_and_resumed_run_equals_a_whole_one(collection, loss):
    """Stopped after the first epoch; then without its last checkpoint, in the second."""
    fake_model('tiny-bert')
    data = data_of(collection, loss)
    whole, cut = (
        open_run(make_config(settings_of(loss) | dict(name=f'{loss.lower()}-{part}')))
        for part in ('whole', 'cut')
    )
    assert_resumes(whole, cut, data=data)


@pytest.mark.parametrize(
    'changes, problem',
    [
        (dict(loss='ListNet'), "loss: 'ListNet' is unknown; did you mean 'ListNetLoss'"),
        (dict(loss='CrossEntropyLoss'), 'is unknown'),
        (dict(negatives=3), 'negatives: write 1, since BinaryCrossEntropyLoss'),
        (dict(loss_args=dict(pos_weight=3)), 'loss_args: write {}, since BinaryCrossEntropyLoss'),
        (dict(loss='ListNetLoss', negatives=2), 'train_pairs: 32 is no multiple of .* 3 passages'),
        (dict(loss='ListNetLoss', device_batch=4), 'device_batch: write 8, as global_batch'),
    ],
)
def test_what_does_not_go_with_a_loss_is_told(changes, problem):
    with pytest.raises(KitError, match=problem):
        make_config(TINY | changes)


def test_a_loss_over_groups_needs_more_than_msmarco_s_pairs():
    marco = dict(collection='msmarco', passage_words=None, test_topics=None, hard_share=None)
    with pytest.raises(KitError, match='ListNetLoss needs the passages of a topic together'):
        make_config(
            TINY | marco | dict(loss='ListNetLoss', train_triplets=1000, test_sets=['dl19'])
        )


def test_the_plain_loss_is_no_part_of_the_identity():
    named = TINY | dict(loss='BinaryCrossEntropyLoss', loss_args={}, negatives=1)
    assert make_config(named).identity == make_config(TINY).identity
    other = make_config(TINY | dict(loss='MSELoss')).identity
    assert other != make_config(TINY).identity
