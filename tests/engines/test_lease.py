"""One holder at a time, and nobody waits for a holder that is gone."""

import os
import time

import pytest

from reproduce_kit.engines.lease import (
    HEARTBEAT_SECONDS,
    MISSED_HEARTBEATS,
    FolderBoard,
    LeaseLost,
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
    assert lease is None and holder['holder']['pid'] == os.getpid()


def test_a_lease_that_was_given_back_is_free(board):
    first = take(board)
    first.renew()
    first.release()
    assert take(board).number == 2


def test_the_lease_of_a_process_that_ended_is_free(board):
    take(board)
    rewrite(board, 1, holder=this_process() | dict(born=0.0))
    assert take(board).number == 2


def test_the_lease_of_a_machine_that_missed_its_heartbeats_is_free(board):
    take(board)
    away = time.time() - MISSED_HEARTBEATS * HEARTBEAT_SECONDS
    rewrite(board, 1, beat=away + 5, holder=dict(input='elsewhere'))
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
    assert acquire(board, 'run', this_process())[1]['holder']['pid'] == os.getpid()


def test_keep_alive_gives_the_lease_back(board):
    with keep_alive(take(board)):
        assert take(board) is None
    assert take(board).number == 2
