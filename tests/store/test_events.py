"""The event log: only added to, by several processes, and whole for whoever reads it."""

import os
import subprocess
import sys

import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull
from reproduce_kit.store.events import EVENTS_FILE, Event, EventKind, append_events, read_events
from reproduce_kit.store.run import open_run

WRITER = """
import sys
from reproduce_kit.store.progress import record_event
for step in range(200):
    record_event(sys.argv[1], 'alive', int(sys.argv[2]), step=step)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A smoke run that was opened."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    return open_run(make_config(example_settings()))


def test_two_processes_that_write_at_once_lose_no_line(tmp_path):
    commands = [[sys.executable, '-c', WRITER, tmp_path, str(number)] for number in (1, 2)]
    for writer in [subprocess.Popen(command) for command in commands]:
        assert writer.wait() == 0
    events = read_events(tmp_path)
    for number in (1, 2):
        steps = [event.facts['step'] for event in events if event.attempt == number]
        assert steps == list(range(200))


@pytest.mark.parametrize('kept', range(0, 60, 7))
def test_a_line_cut_short_anywhere_spoils_neither_its_neighbours_nor_the_next_line(tmp_path, kept):
    first, second, third = (Event(EventKind.ALIVE, 10.0 * n, n, dict(step=n)) for n in (1, 2, 3))
    append_events(tmp_path, first)
    with open(tmp_path / EVENTS_FILE, 'a') as file:
        file.write(second.line()[:kept])
    append_events(tmp_path, third)
    whole = [second] if kept >= len(second.line()) - 1 else []
    assert read_events(tmp_path) == [first, *whole, third]


def test_a_line_that_the_disk_takes_in_part_is_an_error(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, 'write', lambda file, lines: write(file, lines[:9]))
    with pytest.raises(DiskFull, match='events.jsonl: the disk is full'):
        append_events(tmp_path, Event(EventKind.ALIVE, 1.0, 1, dict(step=4)))


def test_a_checkpoint_rewrites_no_file(run):
    manifest, log = run.folder / 'manifest.json', run.folder / EVENTS_FILE
    before = manifest.read_bytes(), log.read_bytes()
    run.record(EventKind.CHECKPOINT, step=4, seconds=9.5)
    run.record(EventKind.EVALUATED, epoch=1, seconds=2.5)
    assert manifest.read_bytes() == before[0]
    assert log.read_bytes().startswith(before[1])
    assert run.manifest['updates'] == dict(planned=8, done=4)
    assert run.manifest['seconds'] == dict(train=9.5, evaluate=2.5)


def test_of_several_processes_only_the_first_one_writes(run, monkeypatch):
    before = read_events(run.folder)
    monkeypatch.setenv('RANK', '1')
    run.record(EventKind.CHECKPOINT, step=4, seconds=9.5)
    assert read_events(run.folder) == before
