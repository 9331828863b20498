"""What ends an attempt: a lost lease, a full disk, ten failures; and nothing less."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull
from reproduce_kit.engines import monitor as monitor_module
from reproduce_kit.engines.lease import LeaseLost, acquire
from reproduce_kit.engines.monitor import AttemptMonitor, Host, KernelGuard, Publisher
from reproduce_kit.store.events import EventKind, read_events
from reproduce_kit.store.run import Run, run_folder


@pytest.fixture(autouse=True)
def fast(tmp_path, monkeypatch):
    """A run store of its own, and a heartbeat every 50 ms."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    monkeypatch.setattr(monitor_module, 'HEARTBEAT_SECONDS', 0.05)


def watched(host=None, **changes):
    host = host or Host()
    cfg = make_config(example_settings(**changes))
    run = Run(cfg, run_folder(cfg))
    lease, _ = acquire(host.board, cfg.name, host.holder)
    return AttemptMonitor(run, lease, host)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.02)


def sleeping_child():
    return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])


def published(publish, offers=1):
    """The errors with which a publisher gave up, after `offers` new checkpoints."""
    errors = []
    publisher = Publisher(publish, 0, errors.append)
    for update in range(1, offers + 1):
        publisher.offer(update)
        publisher.wait()
    return errors


def test_the_record_of_a_running_attempt(monkeypatch):
    monkeypatch.setattr(monitor_module, 'PUBLISH_SECONDS', 0.1)
    with watched() as monitor:
        wait_for(lambda: monitor.run.progress.last.seconds > 0)
    (attempt,) = monitor.run.progress.attempts
    assert (attempt.number, attempt.step, attempt.of) == (1, 0, monitor.run.cfg.updates)
    assert attempt.where == 'local' and attempt.dollars is None
    assert attempt.ended is None and attempt.message == ''
    assert monitor.error is None


def test_an_attempt_says_that_it_is_alive_just_before_files_are_published():
    published = []
    host = Host(publish=lambda: published.append(read_events(monitor.run.folder)[-1].what))
    monitor = watched(host)
    with monitor:
        monitor.run.record(EventKind.CHECKPOINT, step=4, seconds=1.0)
        wait_for(lambda: published)
    assert published == [EventKind.ALIVE]
    assert monitor.run.progress.last.checkpoint == 4


def test_a_heartbeat_without_anything_to_publish_adds_no_line():
    with watched() as monitor:
        time.sleep(0.5)
    assert [event.what for event in read_events(monitor.run.folder)] == [EventKind.STARTED]


def test_a_lost_lease_ends_the_attempt_and_its_kernel():
    monitor = watched()
    with monitor:
        child = sleeping_child()
        number = monitor.lease.number + 1
        monitor.lease.board.put(f'{monitor.lease.name}/{number}', dict(holder=dict()))
        assert child.wait(20) != 0
    assert isinstance(monitor.error, LeaseLost)


def test_a_board_that_does_not_answer_ends_nothing(capsys, monkeypatch):
    def away(key):
        raise ConnectionError('the table is away')

    with watched() as monitor:
        monkeypatch.setattr(monitor.lease.board, 'get', away)
        wait_for(lambda: 'the lease was not renewed' in capsys.readouterr().err)
        assert monitor.error is None


def test_only_what_the_attempt_started_is_killed():
    before = sleeping_child()
    guard = KernelGuard()
    after = sleeping_child()
    guard.kill()
    assert after.wait(20) != 0
    assert before.poll() is None
    before.kill()
    before.wait()


def test_a_full_disk_ends_the_attempt_at_once():
    def publish():
        raise DiskFull('volume reproduce-kit-runs: no space left')

    host = Host(publish=publish)
    with watched(host) as monitor:
        child = sleeping_child()
        monitor.publisher.failures = 1  # something is due
        assert child.wait(20) != 0
    assert isinstance(monitor.error, DiskFull)


def test_a_full_disk_is_known_by_its_class_and_not_by_its_words():
    def publish():
        raise ValueError('no space left, the quota is full')

    assert published(publish) == []


def test_ten_failures_in_a_row_end_the_attempt():
    def publish():
        raise ConnectionError('away')

    assert published(publish, offers=9) == []
    assert len(published(publish, offers=10)) == 1


def test_a_success_forgets_the_failures_before():
    calls = []

    def publish():
        calls.append(1)
        if len(calls) != 9:
            raise ConnectionError('away')

    assert published(publish, offers=18) == []


def test_nothing_new_is_not_published():
    calls = []
    publisher = Publisher(lambda: calls.append(1), 4, None)
    publisher.offer(4)
    publisher.wait()
    assert calls == []


def test_a_slow_disk_is_not_waited_for():
    publisher = Publisher(lambda: time.sleep(0.5), 0, None)
    start = time.time()
    publisher.offer(1)
    publisher.offer(2)
    assert time.time() - start < 0.3
    publisher.wait()


def test_a_child_that_has_ended_meanwhile_keeps_no_other_alive():
    guard, ended, other = KernelGuard(), sleeping_child(), sleeping_child()
    found = [psutil.Process(child.pid) for child in (ended, other)]
    ended.kill()
    ended.wait()
    guard.process = SimpleNamespace(children=lambda: found)  # as they were a moment ago
    guard.kill()
    assert other.wait(20) == -signal.SIGKILL


def test_a_clock_that_is_set_back_stops_no_heartbeat(monkeypatch):
    """Another machine would take the run over while this one trains it."""
    with watched() as monitor:
        lease, now = monitor.lease, time.time

        def beat():
            return lease.board.get(f'{lease.name}/{lease.number}')['beat']

        taken = beat()
        wait_for(lambda: beat() > taken)
        monkeypatch.setattr(time, 'time', lambda: now() - 86_400)
        wait_for(lambda: beat() < taken, 5)


@pytest.mark.parametrize('days', [-1, 1])
def test_a_clock_that_jumps_changes_no_bill(monkeypatch, days):
    with watched() as monitor:
        now = time.time
        monkeypatch.setattr(time, 'time', lambda: now() + days * 86_400)
        monitor.record.end('done')
    assert 0 <= monitor.run.progress.last.seconds < 60
