"""What a disk that fails, or a clock that jumps, leaves in the store, and what the user is told."""

import errno
import os
import time
from pathlib import Path

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull, KitError, NotCached, read_json, write_checksums, write_json
from reproduce_kit.data.hub import hub_errors
from reproduce_kit.engines.lease import FolderBoard
from reproduce_kit.results.memory_table import telemetry_means
from reproduce_kit.store.checkpoints import resume_point
from reproduce_kit.store.history import append_history, append_line
from reproduce_kit.store.run import open_run
from reproduce_kit.training.callback import CheckpointKeeper
from reproduce_kit.training.telemetry import Telemetry

UNREADABLE = '/proc/self/mem'  # its first bytes give an input/output error
FULL = '/dev/full'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A smoke run that was opened."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return open_run(make_config(example_settings()))


def test_a_checkpoint_that_cannot_be_read_is_named_and_not_deleted(tmp_path):
    checkpoint = tmp_path / 'checkpoint-4'
    checkpoint.mkdir()
    (checkpoint / 'optimizer.pt').write_text('moments')
    write_checksums(checkpoint)
    (checkpoint / 'optimizer.pt').unlink()
    (checkpoint / 'optimizer.pt').symlink_to(UNREADABLE)
    words = 'cannot read .*checkpoint-4/optimizer.pt: the disk .* reported an error; check it'
    with pytest.raises(KitError, match=words):
        resume_point(tmp_path)
    assert checkpoint.exists()


def test_a_full_disk_is_told_at_a_line_of_the_history(tmp_path):
    (tmp_path / 'history.jsonl').symlink_to(FULL)
    with pytest.raises(DiskFull, match='history.jsonl: the disk is full; free some space'):
        append_history(tmp_path, dict(step=1, loss=0.5))


def test_a_temporary_file_that_cannot_be_removed_does_not_undo_a_write(tmp_path, monkeypatch):
    def fail(path, missing_ok=False):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, 'unlink', fail)
    write_json(tmp_path / 'manifest.json', 1)
    FolderBoard(tmp_path / 'leases').put('run', 1)
    assert read_json(tmp_path / 'manifest.json') == 1


def test_a_torn_line_of_telemetry_spoils_no_table(run):
    """A kill in a line; the attempt after it goes on in the same file."""
    path = run.folder / 'telemetry.jsonl'
    path.write_text('{"step": 1, "samples": 1, "rss_gib": 1.0}\n{"step": 2, "samp')
    Telemetry(path).write_line(3)
    append_line(path, dict(step=4, samples=1, rss_gib=1.0))
    assert telemetry_means(run)['rss_gib'] > 0
    assert path.read_text().count('\n') == 4


def test_a_clock_that_is_set_back_makes_no_training_shorter(run, monkeypatch):
    keeper = CheckpointKeeper(run)
    (run.folder / 'checkpoint-1').mkdir()
    now = time.time
    monkeypatch.setattr(time, 'time', lambda: now() - 86_400)
    keeper.keep(1)
    assert 0 <= run.progress.train_seconds < 60


def test_a_cache_without_permission_is_not_a_missing_file():
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES), 'hub/models--x/config.json')
    words = 'cannot use hub/models--x/config.json: no permission'
    with pytest.raises(KitError, match=words) as caught, hub_errors('x', '0' * 40, 'model'):
        raise denied
    assert not isinstance(caught.value, NotCached)
