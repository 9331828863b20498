"""One holder at a time, and nobody waits for a holder that is gone."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from reproduce_kit.engines import lease as lease_module
from reproduce_kit.engines.lease import (
    HEARTBEAT_SECONDS,
    MISSED_HEARTBEATS,
    FolderBoard,
    LeaseLost,
    Watch,
    acquire,
    keep_alive,
    this_process,
)


@pytest.fixture
def board(tmp_path):
    return FolderBoard(tmp_path)


def take(board, holder=None):
    """The lease, which must be free."""
    lease, _ = acquire(board, 'run', holder or this_process())
    return lease


def rewrite(board, number, **changes):
    key = f'run/{number}'
    board.put(key, board.get(key) | changes)


def test_a_new_key_is_put_once_and_an_old_one_is_replaced(board):
    assert board.put('a', 1, new=True) and not board.put('a', 2, new=True)
    assert board.get('a') == 1
    assert board.put('a', 3) and board.get('a') == 3
    assert board.get('b') is None
    assert not list(board.path.glob('.*')), 'no half-written file is left'


def test_the_second_is_told_who_holds_it(board):
    take(board)
    lease, holder = acquire(board, 'run', this_process() | dict(pid=1))
    assert lease is None and holder.holder['pid'] == os.getpid()


def test_a_lease_that_was_given_back_is_free(board):
    first = take(board)
    first.renew()
    first.release()
    assert take(board).number == 2


def test_the_lease_of_a_process_that_ended_is_free(board):
    take(board)
    rewrite(board, 1, holder=this_process() | dict(born=0.0))
    assert take(board).number == 2


def test_the_lease_of_a_process_here_that_missed_its_heartbeats_is_free(board):
    take(board)
    away = time.time() - MISSED_HEARTBEATS * HEARTBEAT_SECONDS
    rewrite(board, 1, beat=away + 5)
    assert take(board) is None
    rewrite(board, 1, beat=away - 1)
    assert take(board).number == 2


def test_a_holder_that_was_taken_for_dead_learns_it_at_its_next_heartbeat(board):
    first = take(board)
    rewrite(board, 1, holder=this_process() | dict(born=0.0))
    second = take(board)
    with pytest.raises(LeaseLost):
        first.renew()
    second.renew()


def test_numbers_that_the_table_forgot_are_not_given_again(board):
    for _ in range(3):
        lease = take(board)
        lease.renew()
        lease.release()
    held = take(board)
    held.renew()
    for number in (1, 2, 3):
        (board.path / f'run~{number}.json').unlink()
    assert acquire(board, 'run', this_process())[1].holder['pid'] == os.getpid()


def test_keep_alive_gives_the_lease_back(board):
    with keep_alive(take(board)):
        assert take(board) is None
    assert take(board).number == 2


# Two machines that share a file system, and no clock


SKEW = 90  # seconds


class Clock:
    """A machine's own: it may be wrong, but it goes on as fast as any other."""

    def __init__(self, monkeypatch):
        self.now, self.patch = 1_000_000.0, monkeypatch

    def on(self, host: str, skew: float = 0.0):
        """From now on this process is on another machine."""
        self.patch.setattr(lease_module.socket, 'gethostname', lambda: host)
        clocks = SimpleNamespace(  # of the leases alone: other threads sleep by the real ones
            time=lambda: self.now + skew,
            monotonic=lambda: self.now + 7 * skew,
            monotonic_ns=time.monotonic_ns,
        )
        self.patch.setattr(lease_module, 'time', clocks)

    def wait(self, seconds: float):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


SILENCE = MISSED_HEARTBEATS * HEARTBEAT_SECONDS


@pytest.mark.parametrize('skew', [-SKEW, 0, SKEW])
def test_a_holder_elsewhere_that_goes_on_keeps_its_lease_whatever_its_clock_says(
    board, clock, skew
):
    clock.on('node1', skew)
    held, watch = take(board), Watch()
    for _ in range(3 * MISSED_HEARTBEATS):
        clock.on('node2')
        assert acquire(board, 'run', this_process(), watch)[0] is None
        clock.wait(HEARTBEAT_SECONDS)
        clock.on('node1', skew)
        held.renew()
    assert watch.has_beaten


@pytest.mark.parametrize('skew', [-SKEW, 0, SKEW])
def test_a_holder_elsewhere_that_is_gone_loses_its_lease_whatever_its_clock_said(
    board, clock, skew
):
    clock.on('node1', skew)
    held, watch = take(board), Watch()
    clock.on('node2')
    assert acquire(board, 'run', this_process(), watch)[0] is None
    clock.wait(SILENCE - 1)
    assert acquire(board, 'run', this_process(), watch)[0] is None
    clock.wait(2)
    lease, _ = acquire(board, 'run', this_process(), watch)
    assert lease.number == 2 and not watch.has_beaten
    clock.on('node1', skew)
    with pytest.raises(LeaseLost):
        held.renew()


def test_who_looks_once_takes_nothing_from_a_holder_elsewhere(board, clock):
    clock.on('node1')
    take(board)
    clock.wait(100 * SILENCE)
    clock.on('node2')
    assert take(board) is None


def test_the_same_process_number_on_another_machine_is_another_process(board, clock):
    clock.on('node1')
    take(board)
    rewrite(board, 1, holder=this_process() | dict(born=0.0))  # no process of that birth here
    clock.on('node2')
    assert take(board) is None


def test_a_link_that_was_made_but_reported_as_failed_counts(board, monkeypatch):
    link = os.link

    def link_twice(*paths):
        link(*paths)
        link(*paths)  # the server's first answer was lost

    monkeypatch.setattr(lease_module.os, 'link', link_twice)
    assert board.put('a', 1, new=True)
    assert not board.put('a', 2, new=True)
    assert board.get('a') == 1 and not list(board.path.glob('.*'))


def test_a_link_that_fails_for_another_reason_is_an_error(board, monkeypatch):
    def fail(*paths):
        raise OSError(errno.EDQUOT, 'quota')

    monkeypatch.setattr(lease_module.os, 'link', fail)
    with pytest.raises(OSError, match='quota'):
        board.put('a', 1, new=True)
    assert not list(board.path.glob('.*'))


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(board, monkeypatch):
    board.put('a', 1)
    read, stale = Path.read_text, iter([True, False])

    def read_text(path, *args):
        if next(stale):
            raise OSError(errno.ESTALE, 'Stale file handle')
        return read(path, *args)

    monkeypatch.setattr(Path, 'read_text', read_text)
    assert board.get('a') == 1


def test_a_correction_of_the_clock_makes_no_living_holder_dead(board, monkeypatch):
    """Linux counts a process's birth from the machine's start, which moves with the clock."""
    started = psutil.boot_time()
    take(board)
    monkeypatch.setattr(psutil._psplatform, 'boot_time', lambda: started + 3600)
    assert take(board) is None


def test_what_could_not_be_put_leaves_no_file(board, monkeypatch):
    def fail(*paths):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'replace', fail)
    with pytest.raises(OSError, match='No space'):
        board.put('a', 1)
    assert not list(board.path.iterdir())
