"""Files that are fetched from a volume: whole under their names, whoever else fetches them."""

import hashlib
from multiprocessing import get_context

import pytest

from reproduce_kit.core import KitError
from reproduce_kit.engines.modal_files import OfferedFile, bring_home, download

CONTENT = b'0123456789' * 1000


class Volume:
    """A volume with one file; `meanwhile` is called before its last byte arrives."""

    def __init__(self, meanwhile=lambda: None):
        self.meanwhile = meanwhile

    def read_file_into_fileobj(self, path, file):
        file.write(CONTENT[:-1])
        file.flush()
        self.meanwhile()
        file.write(CONTENT[-1:])


def cut_off():
    raise ConnectionError('the network is down')


@pytest.fixture
def offered(tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return OfferedFile('s/r/x/done.json', tmp_path / 'runs/done.json', digest, len(CONTENT))


def test_a_fetch_that_is_cut_off_leaves_nothing(offered):
    with pytest.raises(KitError):
        download(Volume(cut_off), offered)
    assert not list(offered.target.parent.iterdir())


def fetch_cut_off(offered):
    with pytest.raises(KitError):
        download(Volume(cut_off), offered)


def test_two_processes_that_fetch_do_not_write_into_each_other(offered):
    """The second is cut off while the first waits for its last byte."""

    def second():
        process = get_context('fork').Process(target=fetch_cut_off, args=(offered,))
        process.start()
        process.join()
        assert process.exitcode == 0

    assert download(Volume(second), offered)
    assert offered.target.read_bytes() == CONTENT


class Unreadable:
    """A volume from which nothing can be read."""

    def read_file_into_fileobj(self, path, file):
        cut_off()


def test_a_run_that_ended_otherwise_elsewhere_is_open_until_it_has_arrived(tmp_path, monkeypatch):
    """Its old end would vouch for files of which some are new."""
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path))
    folder = tmp_path / 's/r/x-00000000'
    folder.mkdir(parents=True)
    files = []
    for name in ('metrics.json', 'done.json'):
        (folder / name).write_text('{"old": 1}')
        files.append(OfferedFile(f's/r/x-00000000/{name}', folder / name, '0' * 64, 9))
    with pytest.raises(KitError):
        bring_home(Unreadable(), files)
    assert [path.name for path in folder.iterdir()] == ['metrics.json']
