"""Pre-training: texts, damaged checkpoints, and every combination of objectives in the TITE
paper's Table 2."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModel

from reproduce_kit.config.encoders import EncoderSettings, read_encoder
from reproduce_kit.core import KitError
from reproduce_kit.data.hub import DATASETS, install_repository
from reproduce_kit.store.history import read_history
from reproduce_kit.training.pretrain import pretrain
from reproduce_kit.training.pretraining_text import _fineweb, read_texts, token_pieces


@pytest.fixture
def text_file(tmp_path):
    """The beginnings of some of numpy's docstrings, one per line."""
    functions = [np.sort, np.mean, np.dot, np.unique, np.argsort, np.linspace, np.where, np.pad]
    path = tmp_path / 'numpy.txt'
    path.write_text('\n'.join(' '.join(f.__doc__.split()[:120]) for f in functions))
    return path


@pytest.fixture
def small(text_file, tmp_path, monkeypatch):
    """A function that makes settings of a run of seconds.

    Runs and cache are in a temporary folder."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    shape = read_encoder('tite-k2-docs').model_dump()
    text = dict(text=str(text_file), words=None, texts=None, vocabulary=400, max_length=8)
    size = dict(name='small', layers=3, width=16, learning_rate=1e-4)
    course = dict(updates=8, batch=4, warmup=2, log_updates=1, save_updates=2)

    def settings(**changes):
        return EncoderSettings(**shape | text | size | course | changes)

    return settings


def test_tokens_are_those_of_the_tokenizer(small):
    settings = small(vocabulary=30522)
    pieces = token_pieces(settings)
    text = next(read_texts(settings)[1])
    first = pieces.tokenizer(text, truncation=True)['input_ids']
    assert len(pieces.tokenizer) == 30522
    assert pieces[0].tolist() == first


def test_without_pooling_every_piece_begins_with_cls(small):
    pieces = token_pieces(small(arrangement=0, objectives=['mlm']))
    cls = pieces.tokenizer.cls_token_id
    assert {piece[0] for piece in pieces} == {cls}
    assert pieces.tokenizer('some text')['input_ids'][0] == cls


@pytest.fixture
def fineweb(tmp_path, monkeypatch):
    """FineWeb-Edu in the hub's layout: two files of 30 texts each."""
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hub'))
    folder = tmp_path / 'fineweb/sample/10BT'
    folder.mkdir(parents=True)
    for part in range(2):
        texts = [f'text {part} {row}' for row in range(30)]
        table = pa.table(dict(text=texts, score=[1.0] * 30))
        pq.write_table(table, folder / f'{part:03d}_00000.parquet', row_group_size=8)
    pin = DATASETS['fineweb-edu']
    install_repository(pin.repo, pin.revision, tmp_path / 'fineweb', 'dataset')


@pytest.mark.parametrize('n', [8, 30, 31, 60])
def test_fineweb_gives_as_many_texts_as_asked(fineweb, small, n):
    _, texts = read_texts(small(text='fineweb-edu', texts=n))
    assert len(list(texts)) == n


def test_fineweb_continues_in_the_next_file(fineweb, small):
    settings = small(text='fineweb-edu', texts=40)
    _, texts = read_texts(settings)
    assert list(texts)[28:32] == ['text 0 28', 'text 0 29', 'text 1 0', 'text 1 1']
    assert len(token_pieces(settings)) == 40


def test_fineweb_names_the_file_that_is_missing(fineweb):
    with pytest.raises(KitError, match='002_00000.parquet'):
        list(_fineweb(61))


def test_the_bag_of_words_starts_near_its_baseline(small):
    settings = small()
    pretrain(settings, token_pieces(settings), progress=False)
    history = read_history(settings.folder)
    assert history[1]['bow_loss'] < 1.5 * history[0]['unigram_bow']


def test_a_run_does_not_continue_with_other_text(small, text_file):
    settings = small()
    pretrain(settings, token_pieces(settings), progress=False)
    text_file.write_text('The mean of an array.')
    with pytest.raises(KitError, match='began with other text'):
        pretrain(settings, token_pieces(settings))


def test_a_damaged_checkpoint_changes_nothing(small):
    """The checkpoint of update 6 is cut short, as by a power cut; the run goes back to update 4."""
    settings = small()
    pieces = token_pieces(settings)
    whole = pretrain(settings, pieces, progress=False)
    shutil.rmtree(settings.folder)
    pretrain(settings, pieces, stop_after=7, progress=False)
    with open(settings.folder / 'checkpoint-6/model.safetensors', 'r+b') as file:
        file.truncate(1000)
    assert pretrain(settings, pieces, progress=False)['weights'] == whole['weights']


def test_a_run_stopped_before_its_first_checkpoint_starts_over(small):
    settings = small()
    pieces = token_pieces(settings)
    whole = pretrain(settings, pieces, progress=False)
    history = read_history(settings.folder)
    shutil.rmtree(settings.folder)
    pretrain(settings, pieces, stop_after=1, progress=False)
    assert pretrain(settings, pieces, progress=False)['weights'] == whole['weights']
    assert read_history(settings.folder) == history


def test_the_saved_encoder_loads_with_its_kernels(small):
    settings = small(arrangement=3)
    pretrain(settings, token_pieces(settings), progress=False)
    encoder = AutoModel.from_pretrained(settings.folder / 'encoder')
    assert encoder.config.kernel_size == [3] * 3


@pytest.mark.parametrize(
    'objectives, arrangement',
    [(['mlm', 'mae'], 0), (['mae', 'bow'], 0), (['mae'], 1), (['bow'], 1)],
)
def test_the_rows_of_table_2_can_be_trained(small, objectives, arrangement):
    settings = small(objectives=objectives, arrangement=arrangement, updates=2, warmup=1)
    done = pretrain(settings, token_pieces(settings), progress=False)
    assert done['last']['step'] == 2
