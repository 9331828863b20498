"""Files that somebody made to do harm: none of their code runs, and a sentence names each."""

import json
import pickle
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fuzz import bounded, zip_bomb
from kit import SMOKE

from reproduce_kit.config.files import make_config
from reproduce_kit.core import KitError, write_checksums
from reproduce_kit.data.trec import each_line, read_qrels, read_run
from reproduce_kit.engines.modal_files import safe_path
from reproduce_kit.models.backbone import load_backbone, load_checkpoint
from reproduce_kit.store.run import open_run
from reproduce_kit.testing.fake_hub import fake_model
from reproduce_kit.testing.fake_rerankers import fake_reranker
from reproduce_kit.training.cross_encoder import train
from reproduce_kit.verdicts.expressions import ExpressionError, evaluate_expression
from reproduce_kit.verdicts.vocabulary import BUILT_IN_WORDS

sys.path.insert(0, str(ROOT / 'tools'))

import gpu_bars

# Files with code


@dataclass
class Canary:
    """A value that makes a file when it is unpickled."""

    path: Path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def canary(tmp_path):
    """What no test may find there in the end; the trap itself does work."""
    path = tmp_path / 'code-was-run'
    pickle.loads(pickle.dumps(Canary(path))).close()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture(scope='module')
def reranker(tmp_path_factory):
    """A checkpoint as people send them: a folder of plain files."""
    folder = tmp_path_factory.mktemp('reranker') / 'model'
    shutil.copytree(fake_reranker('tiny-bert-reranker'), folder)
    return folder


def python_of(canary) -> str:
    """A module that makes the file when it is imported, and has every class that is asked for."""
    return f'open({str(canary)!r}, "w")\n\n\ndef __getattr__(name):\n    return object\n'


def as_pickle(folder, canary):
    (folder / 'model.safetensors').unlink()
    torch.save(Canary(canary), folder / 'pytorch_model.bin')


def next_to_a_pickle(folder, canary):
    torch.save(Canary(canary), folder / 'pytorch_model.bin')
    (folder / 'training_args.bin').write_bytes(pickle.dumps(Canary(canary)))


def change_json(path, **changes):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def with_own_model(folder, canary):
    (folder / 'own.py').write_text(python_of(canary))
    classes = ('AutoConfig', 'AutoModel', 'AutoModelForSequenceClassification')
    change_json(
        folder / 'config.json', model_type='own', auto_map=dict.fromkeys(classes, 'own.Own')
    )


def with_own_tokenizer(folder, canary):
    (folder / 'own.py').write_text(python_of(canary))
    change_json(
        folder / 'tokenizer_config.json',
        tokenizer_class='Own',
        auto_map=dict(AutoTokenizer=['own.Own', 'own.Own']),
    )


def write_modules(folder, kind):
    modules = [dict(idx=0, name='0', path='', type=kind)]
    (folder / 'modules.json').write_text(json.dumps(modules))
    about = dict(model_type='CrossEncoder', activation_fn='own.Own')
    (folder / 'config_sentence_transformers.json').write_text(json.dumps(about))


def with_own_module(folder, canary):
    (folder / 'own.py').write_text(python_of(canary))
    write_modules(folder, 'own.Own')


def with_a_known_module(folder, canary):
    """A module of this Python, which would be imported by its name."""
    write_modules(folder, 'antigravity.fly')


CHECKPOINTS = {
    'a pickle instead of safetensors': (as_pickle, 'other formats can carry code'),
    'a class of its own': (with_own_model, 'cannot be loaded'),
    'a tokenizer of its own': (with_own_tokenizer, 'cannot be loaded'),
    'a module of its own': (with_own_module, 'cannot be loaded'),
    'a module by its name': (with_a_known_module, 'cannot be loaded'),
}


@pytest.mark.parametrize('fault', CHECKPOINTS)
def test_a_checkpoint_with_code_is_refused(reranker, tmp_path, canary, fault):
    folder = tmp_path / 'model'
    shutil.copytree(reranker, folder)
    spoil, message = CHECKPOINTS[fault]
    spoil(folder, canary)
    with pytest.raises(KitError, match=message):
        load_checkpoint(folder)


def test_a_pickle_next_to_a_checkpoint_is_not_read(reranker, tmp_path, canary):
    folder = tmp_path / 'model'
    shutil.copytree(reranker, folder)
    next_to_a_pickle(folder, canary)
    model = load_checkpoint(folder)
    assert model.predict([('who wrote emma', 'Jane Austen')]).shape == (1,)


PARTS = ('optimizer.pt', 'scheduler.pt', 'rng_state.pth')


@pytest.fixture(scope='module')
def interrupted():
    """A training with a checkpoint."""
    from datasets import Dataset

    rows = [dict(query=f'q{n}', passage=f'p{n}', label=float(n % 2)) for n in range(24)]
    data = dict(train=Dataset.from_list(rows[:16]), dev=Dataset.from_list(rows[16:]))
    changes = dict(backbone='tiny-bert', layers=1, name='hostile', max_length=32)
    sizes = dict(train_pairs=16, global_batch=8, device_batch=8, save_steps=1, log_steps=1)
    run = open_run(make_config(SMOKE | changes | sizes))
    fake_model('tiny-bert')

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, load_backbone(run.cfg), data, on_epoch=stop)
    return run, data


@pytest.mark.parametrize('part', PARTS)
def test_a_pickle_in_a_checkpoint_is_not_read_when_a_training_goes_on(interrupted, canary, part):
    run, data = interrupted
    checkpoint = max(run.folder.glob('checkpoint-*'))
    kept = (checkpoint / part).read_bytes()
    torch.save(Canary(canary), checkpoint / part)
    write_checksums(checkpoint)
    with pytest.raises(KitError, match='is damaged, or holds code, which is not run'):
        train(run, load_backbone(run.cfg), data)
    (checkpoint / part).write_bytes(kept)
    write_checksums(checkpoint)


def test_the_arguments_of_a_training_are_not_read_from_a_checkpoint(interrupted, canary):
    run, data = interrupted
    checkpoint = max(run.folder.glob('checkpoint-*'))
    (checkpoint / 'training_args.bin').write_bytes(pickle.dumps(Canary(canary)))
    write_checksums(checkpoint)
    train(run, load_backbone(run.cfg), data)
    assert (run.epoch(1) / 'model/model.safetensors').exists()


# Archives


def wheel(path, *members):
    """An archive with a package, and members with names and contents of one's choice."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('own/__init__.py', '')
        for name, content in members:
            archive.writestr(name, content)


def symlink(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (0o120777) << 16
    return info


@pytest.mark.parametrize(
    'name', ['../code-was-run', '/{folder}/code-was-run', 'own/../../code-was-run'], ids=str
)
def test_a_wheel_stays_in_its_folder(tmp_path, canary, name):
    wheel(tmp_path / 'own-1.0-py3-none-any.whl', (name.format(folder=tmp_path), 'x'))
    site = tmp_path / 'deep/site'
    site.mkdir(parents=True)
    gpu_bars.unpack_wheels([('own', '1.0')], tmp_path, site)
    assert (site / 'own/__init__.py').exists()
    assert not (tmp_path / 'deep/code-was-run').exists()


def test_a_link_in_a_wheel_is_a_file_with_its_target_as_text(tmp_path):
    wheel(tmp_path / 'own-1.0-py3-none-any.whl', (symlink('own/link'), '/etc/passwd'))
    gpu_bars.unpack_wheels([('own', '1.0')], tmp_path, tmp_path / 'site')
    assert not (tmp_path / 'site/own/link').is_symlink()
    assert (tmp_path / 'site/own/link').read_text() == '/etc/passwd'


def test_a_wheel_that_unpacks_to_gigabytes_is_refused(tmp_path):
    wheel(tmp_path / 'own-1.0-py3-none-any.whl', ('own/zeros', bytes(2**27)))
    with pytest.raises(KitError, match='unpacks to 128 MiB'):
        gpu_bars.unpack_wheels([('own', '1.0')], tmp_path, tmp_path / 'site')


# Files, and what is said of them


def text_file(content, read):
    def act(folder):
        (folder / 'file.run').write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        read(folder / 'file.run')

    return act


def modal_path(path):
    return lambda folder: safe_path(path, 'mine')


def expression(text):
    return lambda folder: evaluate_expression(text, BUILT_IN_WORDS, dict(ALL=['AP'] * 10))


def read_all(path):
    for _ in each_line(path):
        pass


RUN_LINE = '1 Q0 d1 1 {} kit\n'
HOSTILE = {
    'a run with NaN': (text_file(RUN_LINE.format('nan'), read_run), 'not finite'),
    'a run with infinity': (text_file(RUN_LINE.format('-inf'), read_run), 'not finite'),
    'a run with a document twice': (text_file(RUN_LINE.format(1) * 2, read_run), 'there twice'),
    'a run with NUL in a name': (text_file('1 Q0 d\0 1 1 kit\n', read_run), 'NUL bytes'),
    'a run of a GiB in a MiB': (text_file(zip_bomb(), read_run), 'a hundred times its size'),
    'texts of a GiB in a MiB': (text_file(zip_bomb(), read_all), 'line of more than 64 MiB'),
    'judgments with a grade of 64 bits': (text_file('1 0 d1 9999999999\n', read_qrels), '32 bits'),
    'a file from Modal above the store': (modal_path('mine/../../../etc/passwd'), 'run store'),
    'a file from Modal with a whole path': (modal_path('/etc/passwd'), 'run store'),
    'a file from Modal of another study': (modal_path('other/a/b-01234567/x.json'), 'run store'),
    'a file from Modal in a pickle': (modal_path('mine/a/b-01234567/x.pkl'), 'run store'),
    'an attribute': (expression('().__class__'), 'Attribute'),
    'an attribute of a word': (expression('max.__self__'), 'Attribute'),
    'a call of the system': (expression("__import__('os').system('id')"), 'Attribute|not defined'),
    'a name of Python': (expression('open("x")'), "Function 'open' not defined"),
    'a power of a power': (expression('9**9**9'), 'powers are up to'),
    'a text of gigabytes': (expression("'a' * 10**10"), 'something that long'),
    'a list of gigabytes': (expression('[0] * 10**10'), 'something that long'),
    'a text that is filled up': (expression("'a'.ljust(10**10)"), 'Attribute'),
    'a format of gigabytes': (expression("'%10000000000d' % 1"), 'for numbers'),
    'a text with a format': (expression("f'{1:>10000000000}'"), 'JoinedStr'),
    'digits before the point': (expression('round(5, -10**10)'), 'digits'),
    'loops in loops': (
        expression('len([a for a in ALL for b in ALL for c in ALL for d in ALL for e in ALL])'),
        'too many elements',
    ),
    'a long sum in a loop': (
        expression(f'[{"+".join("1" * 200)} for a in ALL for b in ALL for c in ALL]'),
        'more than 100,000 steps',
    ),
    'brackets in brackets': (expression('(' * 5000 + ')' * 5000), 'parenthes'),
    'not not not': (expression('not ' * 3000 + '1'), 'recursion|characters'),
    'a lambda': (expression('(lambda: 1)()'), 'Lambda'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(tmp_path, name):
    act, message = HOSTILE[name]
    with bounded(), pytest.raises((KitError, ExpressionError), match=message):
        act(tmp_path)
