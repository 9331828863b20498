"""An update in pieces has the stock trainer's gradients, for each architecture, and a short last batch its own weight."""

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
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model, fake_words
from reproduce_kit.training.cross_encoder import train
from reproduce_kit.training.microbatch import microbatch_trainer


def rows(n):
    g = np.random.default_rng(n)
    words = fake_words()
    return Dataset.from_list(
        [
            dict(
                query=' '.join(g.choice(words, 4)),
                passage=' '.join(g.choice(words, int(g.integers(1, 90)))),
                label=float(i % 2),
            )
            for i in range(n)
        ]
    )


def cross_encoder(backbone, folder):
    if backbone != 'tiny-tite':
        fake_model(backbone)
        return load_backbone(
            make_config(SMOKE | dict(backbone=backbone, layers=2, max_length=48, dropout=0.0))
        ).to('cpu')
    from reproduce_kit.models.tite import TiteForSequenceClassification, tiny_tite

    tok = cross_encoder('tiny-bert', folder).tokenizer
    torch.manual_seed(1)
    TiteForSequenceClassification(
        tiny_tite(
            4,
            vocab_size=len(tok),
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(folder)
    tok.save_pretrained(folder)
    return CrossEncoder(str(folder), max_length=48, device='cpu')


@pytest.mark.parametrize('backbone', ['tiny-bert', 'tiny-gte', 'tiny-modernbert', 'tiny-tite'])
@pytest.mark.parametrize(
    'pairs', [32, 13]
)  # a whole batch, and what is left at the end of an epoch
def test_gradients_are_the_stock_losses(backbone, pairs, tmp_path):
    model = cross_encoder(backbone, tmp_path / 'model')
    model.train()
    data = rows(pairs)

    def gradients(loss):
        g = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return loss.item(), g

    loss = BinaryCrossEntropyLoss(model)(
        [data['query'][:], data['passage'][:]], torch.tensor(data['label'][:])
    )
    loss.backward()
    want, stock = gradients(loss)
    args = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=32,
        report_to='none',
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = microbatch_trainer(model, args, data, data, 5)
    batch = next(iter(trainer.get_train_dataloader()))
    got, ours = gradients(trainer.training_step(model, batch))
    assert len(batch['parts']) >= pairs / 5 and stock.norm() > 0
    assert abs(want - got) < 1e-6 * max(1, want) and (ours - stock).norm() < 1e-5 * stock.norm()


def test_a_short_last_batch_in_pieces():
    """14 pairs in batches of 8: the last 6 are an update of their own, whatever fits on the device at once."""
    data = dict(train=rows(14), dev=rows(8))
    losses, weights = [], []
    for most in (8, 4):
        run = open_run(
            make_config(
                SMOKE
                | dict(
                    name=f'most-{most}',
                    layers=1,
                    max_length=48,
                    dropout=0.0,
                    train_pairs=14,
                    epochs=2,
                    global_batch=8,
                    device_batch=most,
                    last_batch='keep',
                    log_steps=1,
                    save_steps=1,
                )
            )
        )
        model = load_backbone(run.cfg).to('cpu')
        train(run, model, data)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        losses.append([l['loss'] for l in read_history(run.folder) if 'loss' in l])
    assert (
        len(losses[0]) == 4
        and np.allclose(*losses, rtol=1e-5)
        and (weights[0] - weights[1]).norm() < 1e-5 * weights[0].norm()
    )
