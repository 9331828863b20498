"""TREC files: what is wrong in them is found, and equal values are equal files."""

import pytest

from reproduce_kit.core import KitError
from reproduce_kit.data.trec import read_lines, read_run, read_topics, write_run

RUN = {'q1': {'d1': 1 / 3, 'd2': 0.9}, 'q2': {'d1': -2.0}}


@pytest.mark.parametrize(
    'text, message',
    [
        ('q1 Q0 d1 1 nan x', 'line 1'),
        ('q1 Q0 d1 1 1 x\nq1 Q0 d1 2 0 x', "twice for topic 'q1'"),
        ('', 'is empty'),
    ],
)
def test_a_wrong_line_of_a_run_is_named(tmp_path, text, message):
    (tmp_path / 'a.run').write_text(text)
    with pytest.raises(KitError, match=message):
        read_run(tmp_path / 'a.run')


def test_a_repeated_topic_is_named(tmp_path):
    (tmp_path / 'topics.tsv').write_text('1\ta\n1\tb\n')
    with pytest.raises(KitError, match="line 2: topic '1' is there twice"):
        read_topics(tmp_path / 'topics.tsv')


def test_equal_runs_are_equal_files(tmp_path):
    write_run(tmp_path / 'a.run.gz', RUN)
    write_run(tmp_path / 'b.run.gz', dict(reversed(RUN.items())))
    assert (tmp_path / 'a.run.gz').read_bytes() == (tmp_path / 'b.run.gz').read_bytes()


def test_a_line_separator_within_a_line_ends_no_line(tmp_path):
    (tmp_path / 'a.jsonl').write_text('a\u2028b\nc\r\n')
    assert read_lines(tmp_path / 'a.jsonl') == ['a\u2028b', 'c']
