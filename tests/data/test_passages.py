"""Passages on disk are the passages in memory: the same texts, the same rankings, less memory."""

import json
import pickle
import subprocess
import sys

import pytest

import reproduce_kit.data.collection as collections
from reproduce_kit.core import KitError
from reproduce_kit.data.collection import read_collection
from reproduce_kit.data.passages import StoredPassages

MIB = 2**20


def write_folder(folder, passages: int, words: int = 6):
    """A collection whose passages end in their numbers; one topic is judged."""
    folder.mkdir(exist_ok=True)
    filler = ' '.join(f'word{n}' for n in range(words))
    with open(folder / 'corpus.jsonl', 'w') as file:
        for number in range(passages):
            file.write(json.dumps(dict(id=f'doc-{number}', contents=f'{filler} {number}')) + '\n')
    (folder / 'topics.test.tsv').write_text('1\tword1\n')
    (folder / 'qrels.test.txt').write_text('1 0 doc-7 1\n')
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is large by the limit that is set here, of more than one batch."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(collections, 'STORED_FROM_BYTES', 1000)
    return write_folder(tmp_path / 'large', 20_000)


def test_a_large_folder_holds_what_a_small_one_does(folder, monkeypatch):
    stored = read_collection(folder).corpus
    monkeypatch.setattr(collections, 'STORED_FROM_BYTES', 2**40)
    in_memory = read_collection(folder).corpus
    assert isinstance(stored, StoredPassages)
    assert isinstance(in_memory, dict)
    assert dict(stored) == dict(stored.items()) == in_memory
    assert list(stored) == list(in_memory)
    for absent in ('doc-20000', 'doc-', '', 7):
        assert absent not in stored


def test_ids_with_one_hash_are_told_apart(folder, monkeypatch):
    import reproduce_kit.data.passages as passages

    monkeypatch.setattr(passages, '_id_hash', lambda docid: len(docid))
    write_folder(folder, 30)
    stored = read_collection(folder).corpus
    assert [stored[f'doc-{i}'].split()[-1] for i in range(30)] == [str(i) for i in range(30)]
    assert 'doc-x' not in stored


def test_a_passage_that_is_there_twice_is_named(folder, monkeypatch):
    with open(folder / 'corpus.jsonl', 'a') as file:
        file.write('{"id": "doc-9", "contents": "again"}\n')
    with pytest.raises(KitError, match="passage 'doc-9' is there twice"):
        read_collection(folder)
    monkeypatch.setattr(collections, 'STORED_FROM_BYTES', 2**40)
    with pytest.raises(KitError, match="passage 'doc-9' is there twice"):
        read_collection(folder)


def test_a_wrong_line_of_a_large_folder_leaves_nothing_behind(folder, tmp_path):
    with open(folder / 'corpus.jsonl', 'a') as file:
        file.write('{"id": "doc-x"\n')
    with pytest.raises(KitError, match='corpus.jsonl, line 20001'):
        read_collection(folder)
    assert list((tmp_path / 'cache/passages').iterdir()) == []


def test_a_changed_file_is_read_again(folder):
    before = read_collection(folder)
    write_folder(folder, 19_999)
    after = read_collection(folder)
    assert len(after.corpus) == 19_999
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == read_collection(folder).fingerprint


def test_a_worker_is_sent_a_name(folder):
    stored = read_collection(folder).corpus
    sent = pickle.dumps(stored)
    assert len(sent) < 1000
    assert pickle.loads(sent)['doc-19'] == stored['doc-19']


# In a child, whose memory is its own: VmHWM is the most it held, with mapped pages.
READ_ALL = """
import sys
from reproduce_kit.data.collection import read_collection

def memory(name):
    lines = open('/proc/self/status').read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024

import pyarrow
before = memory('VmHWM')
collection = read_collection(sys.argv[1])
collection.fingerprint
count = sum(len(text) > 0 for docid, text in collection.corpus.items())
texts = [collection.corpus[f'doc-{number}'] for number in range(0, count, 100)]
print(count, before, memory('VmHWM'))
"""


@pytest.mark.soak
def test_a_million_passages_stay_below_200_mib_more(tmp_path, monkeypatch):
    """Of 1M passages of 330 bytes. What grows with their number is 16 bytes each while the
    store is written and as much while it is sorted: 9M take 300 MB more, far below 4 GiB."""
    monkeypatch.setenv('REPRODUCE_CACHE', str(tmp_path / 'cache'))
    folder = write_folder(tmp_path / 'million', 1_000_000, words=45)
    assert (folder / 'corpus.jsonl').stat().st_size > 300 * MIB
    first, second = (
        subprocess.run(
            [sys.executable, '-c', READ_ALL, str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    )
    for child in (first, second):
        count, before, most = map(int, child.stdout.split())
        assert count == 1_000_000
        assert most - before < 200, (before, most)
