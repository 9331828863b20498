"""What a manifest says of the clone."""

from reproduce_kit.store.machine import git_state


def test_a_machine_without_git_has_no_commit_and_no_error(monkeypatch):
    monkeypatch.delenv('REPRODUCE_GIT', raising=False)
    assert git_state()['commit']
    monkeypatch.setenv('PATH', '/nowhere')
    assert git_state() == dict(commit=None, dirty=None)
