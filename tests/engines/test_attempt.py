"""How attempts end, without a notebook: what is written, and what is answered."""

import errno
import re
import shutil
from contextlib import contextmanager

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull, KitError, atomic_write, read_json
from reproduce_kit.engines import attempt as attempt_module
from reproduce_kit.engines import local
from reproduce_kit.engines.attempt import attempt, train_config
from reproduce_kit.engines.lease import FolderBoard, LeaseLost
from reproduce_kit.engines.monitor import Host
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.run import Run, run_folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A smoke run that has not begun."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    cfg = make_config(example_settings())
    return Run(cfg, run_folder(cfg))


def ends(run) -> list:
    return [attempt.ended for attempt in run.progress.attempts]


@pytest.fixture
def notebook_raises(monkeypatch):
    """Make the training notebook fail with an error."""

    def set_error(error):
        def execute(*args):
            raise error

        monkeypatch.setattr(attempt_module, 'execute_notebook', execute)

    return set_error


def test_a_failure_is_answered_in_short_and_written_in_full(run, notebook_raises):
    error = KitError('collection: /nowhere does not exist')
    error.cell, error.traceback = 3, 'Traceback ...'
    notebook_raises(error)
    answer = train_config(run.cfg)
    assert (answer['state'], answer['cell']) == ('failed', 3)
    assert answer['message'] == str(error)
    assert 'traceback' not in answer
    failure = read_json(run.folder / 'failed.json')
    assert list(failure) == ['name', 'run', 'state', 'message', 'cell', 'traceback', 'when']
    assert failure['traceback'] == 'Traceback ...'
    assert ends(run) == ['failed']
    assert run.progress.last.message == str(error)


def test_a_lost_lease_writes_nothing_over_the_new_holders_files(run, notebook_raises):
    notebook_raises(LeaseLost('run'))
    answer = attempt(run.cfg)
    assert answer.state == 'elsewhere' and 'took this run over' in answer.message
    assert not (run.folder / 'failed.json').exists()
    assert ends(run) == [None]


def test_ctrl_c_is_written_down_and_passed_on(run, notebook_raises):
    notebook_raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        attempt(run.cfg)
    assert ends(run) == ['stopped']


def test_the_lease_is_given_back_however_an_attempt_ends(run, notebook_raises):
    for error in (KitError('no'), LeaseLost('run'), KitError('no')):
        notebook_raises(error)
        assert attempt(run.cfg).state != 'skipped'
    assert len(ends(run)) == 3


def test_the_notebook_of_an_attempt_that_was_cut_off_is_kept(run, notebook_raises):
    notebook_raises(KitError('no'))
    attempt(run.cfg)
    (run.folder / 'train.part.ipynb').write_text('the first')
    attempt(run.cfg)
    assert (run.folder / 'attempts/001.ipynb').read_text() == 'the first'


def test_a_fourth_attempt_needs_a_new_checkpoint(run, notebook_raises):
    notebook_raises(KitError('it was tried'))
    for number in (1, 2, 3):
        price = dict(dollars_per_hour=1.0, rates='table')
        run.record(EventKind.STARTED, attempt=number, where='modal', **price)
        if number == 1:
            run.record(EventKind.CHECKPOINT, step=4, seconds=9.0)
    answer = attempt(run.cfg)
    assert answer.state == 'failed' and 'cut off after 4 updates' in answer.message
    assert ends(run) == ['cut off'] * 3 + ['failed']
    assert attempt(run.cfg).message == 'it was tried'


def test_a_full_disk_is_known_by_its_class(run, notebook_raises):
    notebook_raises(DiskFull('cannot write x: the disk is full'))
    assert attempt(run.cfg).is_disk_full
    notebook_raises(KitError('free some space'))
    assert not attempt(run.cfg).is_disk_full


def test_a_result_that_cannot_be_published_has_failed(run, monkeypatch):
    def publish():
        raise DiskFull('volume reproduce-kit-runs: no space left')

    monkeypatch.setattr(attempt_module, '_execute', lambda run, monitor: None)
    run.folder.mkdir(parents=True)
    (run.folder / 'done.json').write_text('{}')
    answer = attempt(run.cfg, Host(publish=publish))
    assert answer.state == 'failed' and 'no space left' in answer.message
    assert answer.is_disk_full


def test_an_answer_is_plain_data(run, notebook_raises):
    notebook_raises(KitError('no'))
    answer = train_config(run.cfg)
    assert type(answer['state']) is str


@pytest.mark.parametrize('error, tried', [(KitError('no'), 2), (DiskFull('full'), 1)])
def test_a_full_disk_stops_a_study_and_another_failure_does_not(
    run, notebook_raises, monkeypatch, error, tried
):
    monkeypatch.setattr(local, 'weights_folder', lambda backbone: None)
    notebook_raises(error)
    configs = [run.cfg, make_config(example_settings(name='second'))]
    outcome = local.run_study(configs, say=lambda line: None)
    assert len(outcome.failed) == tried and outcome.done == []


def test_a_board_that_cannot_be_written_is_a_failure_in_words(run):
    run.folder.parents[2].joinpath('.leases').write_text('no folder')
    answer = attempt(run.cfg)
    assert answer.state == 'failed'
    assert re.match(r'cannot use .*\.leases.*: .*, then run the same command again', answer.message)


def test_a_lease_that_cannot_be_given_back_does_not_hide_how_an_attempt_ended(run, monkeypatch):
    def execute(*args):
        leases = run.folder.parents[2] / '.leases'
        shutil.rmtree(leases)
        leases.write_text('no folder')
        raise KitError('the notebook failed')

    monkeypatch.setattr(attempt_module, 'execute_notebook', execute)
    answer = attempt(run.cfg)
    assert (answer.state, answer.message) == ('failed', 'the notebook failed')


def test_an_error_of_the_disk_is_told_with_the_file_and_what_to_do(run, notebook_raises):
    notebook_raises(OSError(errno.EIO, 'Input/output error', 'checkpoint-3/optimizer.pt'))
    answer = attempt(run.cfg)
    assert answer.message.startswith('cannot use checkpoint-3/optimizer.pt: the disk or')


class BusyBoard(FolderBoard):
    """A board on which another process takes each first number, and gives it back at once."""

    def put(self, key, value, new=False):
        if new and key.endswith('/1'):
            super().put(key, value | dict(given_back=True), new=True)
        return super().put(key, value, new=new)


def test_a_run_that_another_process_has_just_left_is_not_trained_elsewhere(
    run, notebook_raises, tmp_path
):
    notebook_raises(KitError('it was tried'))
    answer = attempt(run.cfg, Host(board=BusyBoard(tmp_path / 'leases')))
    assert (answer.state, answer.message) == ('failed', 'it was tried')


def test_two_commands_that_try_the_same_folder_do_not_stop_each_other(run, monkeypatch):
    """The other one has removed the file with which both try whether they can write."""

    @contextmanager
    def write_and_lose(path):
        with atomic_write(path) as file:
            yield file
        path.unlink()

    monkeypatch.setattr(local, 'atomic_write', write_and_lose)
    monkeypatch.setattr(local, 'weights_folder', lambda backbone: None)
    local.check_before_training([run.cfg])
    assert run.folder.is_dir()
