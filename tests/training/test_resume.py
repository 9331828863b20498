"""A run that was stopped and started again equals one that was not.

The same history, the same weights."""

import math
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import Interrupted, KitError, sha256
from reproduce_kit.models.backbone import load_backbone
from reproduce_kit.store.events import EVENTS_FILE
from reproduce_kit.store.history import read_history
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model, fake_words
from reproduce_kit.training import callback as callback_module
from reproduce_kit.training.cross_encoder import train
from reproduce_kit.training.schedules import planned_rate
from reproduce_kit.training.stopping import STOP_FILE

TINY = SMOKE | dict(
    backbone='tiny-bert',
    layers=1,
    max_length=32,
    schedule='linear',
    train_pairs=32,
    global_batch=8,
    device_batch=8,
    save_steps=1,
)
CHAINED = dict(chained=True, optimizer='adamw', learning_rate=1.0e-4)


def interrupt(epoch):
    raise KeyboardInterrupt


def pairs(label=None):
    """Two epochs of 32 pairs, and 8 to watch."""
    random = np.random.default_rng(1)
    words = fake_words()
    rows = []
    for i in range(72):
        query, passage = (' '.join(random.choice(words, n)) for n in (3, 12))
        value = float(i % 2) if label is None else label
        rows.append(dict(query=query, passage=passage, label=value))
    return dict(train=Dataset.from_list(rows[:64]), dev=Dataset.from_list(rows[64:]))


def start(run, **options):
    fake_model('tiny-bert')
    train(run, load_backbone(run.cfg), options.pop('data', pairs()), **options)


def open_tiny(**changes):
    return open_run(make_config(TINY | changes))


def weights(run):
    return [sha256(run.epoch(n) / 'model/model.safetensors') for n in (1, 2)]


def assert_resumes(whole, cut, **options):
    """Stop one run after its first epoch, take its last checkpoint away, and go on each time."""
    start(whole, **options)
    with pytest.raises(KeyboardInterrupt):
        start(cut, on_epoch=interrupt, **options)
    start(cut, **options)
    shutil.rmtree(cut.folder / f'checkpoint-{cut.cfg.updates}')
    start(cut, **options)
    assert read_history(cut.folder) == read_history(whole.folder)
    assert weights(cut) == weights(whole)


@pytest.mark.parametrize('changes', [dict(), CHAINED], ids=['one schedule', 'chained'])
def test_a_run_stopped_at_an_epochs_end_and_in_its_middle_equals_a_whole_one(changes):
    """Stopped after the first epoch; then without its last checkpoint, in the second."""
    name = 'chained' if changes else 'single'
    whole, cut = (open_tiny(name=f'{name}-{part}', **changes) for part in ('whole', 'cut'))
    assert_resumes(whole, cut)


@pytest.fixture
def ask_after(tmp_path, monkeypatch):
    """Ask a training to end once a line of its history is written; the file that asks."""
    file, append = tmp_path / 'stop', callback_module.append_history
    monkeypatch.setenv(STOP_FILE, str(file))

    def ask(update):
        def append_history(folder, line):
            append(folder, line)
            if line['step'] == update:
                file.touch()

        monkeypatch.setattr(callback_module, 'append_history', append_history)
        return file

    return ask


@pytest.mark.parametrize('update', [2, 4], ids=['within an epoch', 'at its end'])
def test_a_run_that_was_asked_to_end_saves_and_goes_on_as_if_nothing_had_been(ask_after, update):
    whole, cut = (open_tiny(name=f'asked-{update}-{part}') for part in ('whole', 'cut'))
    start(whole)
    file, measured = ask_after(update - 1), []
    with pytest.raises(Interrupted, match=f'stopped after {update} of 8 updates'):
        start(cut, on_epoch=measured.append)
    assert cut.progress.updates_done == update and measured == []
    file.unlink()
    start(cut, on_epoch=measured.append)
    assert measured == ([1, 2] if update == 2 else [2])
    assert read_history(cut.folder) == read_history(whole.folder)
    assert weights(cut) == weights(whole)


def test_a_checkpoint_has_no_model_card(ask_after):
    """The library writes one by itself, which takes longer than an update of a small model."""
    run = open_tiny(name='no-card')
    ask_after(1)
    with pytest.raises(Interrupted):
        start(run)
    assert list(run.folder.glob('checkpoint-2/model.safetensors'))
    assert not list(run.folder.rglob('README.md'))


def test_a_run_that_was_asked_to_end_in_its_last_update_is_done_with_training(ask_after):
    run = open_tiny(name='asked-last')
    ask_after(7)
    start(run)
    assert run.progress.updates_done == 8


def test_a_run_that_was_asked_to_end_goes_on_to_the_next_line_of_its_history(ask_after):
    """A checkpoint between two lines would change the mean loss of the second."""
    run = open_tiny(name='asked-between', log_steps=2, save_steps=2)
    ask_after(2)
    with pytest.raises(Interrupted, match='stopped after 4 of 8 updates'):
        start(run)


def test_a_run_that_began_before_there_was_an_event_log_continues():
    whole = open_tiny(name='new')
    start(whole)
    cut = open_tiny(name='old')
    with pytest.raises(KeyboardInterrupt):
        start(cut, on_epoch=interrupt)
    cut.note(**cut.manifest)  # as it was written then
    (cut.folder / EVENTS_FILE).unlink()
    assert cut.manifest['updates'] == dict(planned=8, done=4)
    start(cut)
    assert cut.manifest['updates'] == dict(planned=8, done=8)
    assert read_history(cut.folder) == read_history(whole.folder)
    assert weights(cut) == weights(whole)


def test_a_chained_run_starts_each_epoch_with_an_empty_optimizer_and_its_schedule():
    run = open_tiny(name='chained-rates', **CHAINED)
    start(run)
    rates = [line['learning_rate'] for line in read_history(run.folder) if 'loss' in line]
    assert np.allclose(rates, [planned_rate(run.cfg, n) for n in range(8)], atol=0)
    optimizer = torch.load(run.folder / 'checkpoint-8/optimizer.pt', weights_only=True)
    assert optimizer['state'][0]['step'].item() == 4  # of its own epoch


def test_a_run_that_lost_an_epochs_model_starts_over(capsys):
    run = open_tiny(name='lost')
    start(run)
    history, before = read_history(run.folder), weights(run)
    (run.epoch(1) / 'model/model.safetensors').unlink()
    start(run)
    assert 'the model of epoch 1 is gone or damaged; starting over' in capsys.readouterr().err
    assert (read_history(run.folder), weights(run)) == (history, before)


def test_a_loss_that_is_not_finite_ends_the_run_and_stays_in_its_history():
    run = open_tiny(name='diverged')
    with pytest.raises(KitError, match='at update 1: the run has diverged'):
        start(run, data=pairs(label=math.inf))
    (line,) = read_history(run.folder)
    assert not math.isfinite(line['loss'])
