"""An update in pieces has the stock trainer's gradients, for each architecture.

A short last batch has its own weight."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from kit import SMOKE
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

from reproduce_kit.config.files import make_config
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.models.tite import TiteForSequenceClassification
from reproduce_kit.models.tite_config import tiny_tite
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model, fake_words
from reproduce_kit.training.cross_encoder import train
from reproduce_kit.training.microbatch import microbatch_trainer, split_by_length


def division_cost(division, lengths, pass_cost):
    return sum(len(piece) * max(lengths[piece]) + pass_cost for piece in division)


def all_divisions(order, most):
    """Every division of `order` into runs of at most `most`."""
    n = len(order)
    for cuts in range(n):
        for inner in itertools.combinations(range(1, n), cuts):
            bounds = (0, *inner, n)
            division = [order[start:end] for start, end in itertools.pairwise(bounds)]
            if max(map(len, division)) <= most:
                yield division


@pytest.mark.parametrize('most', [8, 3])
def test_no_division_of_the_sorted_lengths_is_cheaper(most):
    random = np.random.default_rng(1)
    for _ in range(20):
        lengths = random.integers(1, 40, 8)
        chosen = division_cost(split_by_length(lengths, most, 11), lengths, 11)
        divisions = all_divisions(np.argsort(lengths), most)
        assert chosen == min(division_cost(division, lengths, 11) for division in divisions)


def random_pairs(n):
    random = np.random.default_rng(n)
    words = fake_words()
    rows = []
    for i in range(n):
        query = ' '.join(random.choice(words, 4))
        passage = ' '.join(random.choice(words, int(random.integers(1, 90))))
        rows.append(dict(query=query, passage=passage, label=float(i % 2)))
    return Dataset.from_list(rows)


def cross_encoder(backbone, folder):
    if backbone == 'tiny-tite':
        return tite_cross_encoder(folder)
    fake_model(backbone)
    changes = dict(backbone=backbone, layers=2, max_length=48, dropout=0.0)
    return load_backbone(make_config(SMOKE | changes)).to('cpu')


def tite_cross_encoder(folder):
    """TITE with the tiny BERT's tokenizer."""
    tokenizer = cross_encoder('tiny-bert', folder).tokenizer
    torch.manual_seed(1)
    config = tiny_tite(
        4,
        vocab_size=len(tokenizer),
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    TiteForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossEncoder(str(folder), max_length=48, device='cpu')


def take_gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return flat


@pytest.mark.parametrize('backbone', ['tiny-bert', 'tiny-gte', 'tiny-modernbert', 'tiny-tite'])
@pytest.mark.parametrize('pairs', [32, 13], ids=['a full batch', 'a short batch'])
def test_gradients_are_the_stock_losses(backbone, pairs, tmp_path):
    model = cross_encoder(backbone, tmp_path / 'model')
    model.train()
    data = random_pairs(pairs)
    texts = [data['query'][:], data['passage'][:]]
    stock_loss = BinaryCrossEntropyLoss(model)(texts, torch.tensor(data['label'][:]))
    stock_loss.backward()
    stock_gradient = take_gradient(model)

    args = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=32,
        report_to='none',
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = microbatch_trainer(model, args, data, data, 5)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(model, batch)
    gradient = take_gradient(model)

    assert len(batch['pieces']) >= pairs / 5
    assert stock_gradient.norm() > 0
    assert abs(stock_loss.item() - loss.item()) < 1e-6 * max(1, stock_loss.item())
    assert (gradient - stock_gradient).norm() < 1e-5 * stock_gradient.norm()


def train_in_pieces(device_batch, data, **changes):
    """Return the run, its losses and its weights after two epochs with batches of 8."""
    fake_model('tiny-bert')
    settings = dict(
        name=f'pieces-{device_batch}',
        backbone='tiny-bert',
        layers=1,
        max_length=48,
        dropout=0.0,
        epochs=2,
        global_batch=8,
        device_batch=device_batch,
        save_steps=1,
    )
    run = open_run(make_config(SMOKE | settings | changes))
    model = load_backbone(run.cfg).to('cpu')
    train(run, model, data)
    losses = [line['loss'] for line in read_history(run.folder) if 'loss' in line]
    return run, losses, torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_equal_up_to_rounding(one, other):
    (_, losses, weights), (_, other_losses, other_weights) = one, other
    assert np.allclose(losses, other_losses, rtol=1e-5)
    assert (weights - other_weights).norm() < 1e-5 * weights.norm()


def test_a_run_in_pieces_ends_at_the_same_weights():
    """Eight pairs at once, or two, with AdamW."""
    data = dict(train=random_pairs(16), dev=random_pairs(8))
    changes = dict(train_pairs=16, optimizer='adamw', learning_rate=1.0e-4)
    whole, pieces = (train_in_pieces(most, data, **changes) for most in (8, 2))
    assert [run.manifest['batch']['accumulation'] for run, *_ in (whole, pieces)] == [1, 4]
    assert_equal_up_to_rounding(whole, pieces)


def test_a_short_last_batch_is_an_update_of_its_own():
    """14 pairs in batches of 8: the last 6 are one update, whatever fits on the device at once."""
    data = dict(train=random_pairs(14), dev=random_pairs(8))
    changes = dict(train_pairs=14, last_batch='keep')
    whole, pieces = (train_in_pieces(most, data, **changes) for most in (8, 4))
    assert len(whole[1]) == 4
    assert_equal_up_to_rounding(whole, pieces)
