"""A parameter file that is read key by key is what it is when it is read as a whole."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from reproduce_kit.config.files import (
    _parse_lines,
    _read_by_key,
    describes_runs,
    read_configs,
    read_parameters,
)
from reproduce_kit.core import KitError

FILES = sorted((ROOT / 'params').rglob('*.yaml'))
ODD_TEXTS = (
    'a: 1\nb: 2\na: 3\n',
    'a: 1',
    '# only a comment\n',
    '',
    '\n\n# head\na: 1\n\n# between\nb: [1,\n  2]\n',
    'a: |\n  b: 1\n\n  c: 2\nd: 3\n',
    'a: >-\n  text\nb: "two\n  lines"\n',
    'a: "two\nb: lines"\n',
    "a: 'two\nb: lines'\n",
    'a: [1,\nb: 2]\n',
    'a: {x: 1,\ny: 2}\n',
    '  a: 1\nb: 2\n',
    ' a: 1\n b: 2\n',
    'a: 1\n b: 2\n',
    'a:\n- 1\n- x: 2\n  y: 3\nb: 4\n',
    'a: 1\n...\nb: 2\n',
    'a: 1\n---\nb: 2\n',
    '---\na: 1\nb: 2\n',
    '%YAML 1.1\n---\na: 1\n',
    'a: &x {b: 1}\nc: *x\n',
    'b: 2\na: &x {b: 1}\n<<: *x\n',
    'b: 2\n<<: {b: 1}\n',
    'a: 1\r\nb: 2\r\n',
    'a: 1\rb: 2\n',
    'a: 1\x85...\nb: 2\n',
    'a: b: 1\n',
    'a:1\nb: 2\n',
    'a: 1\nsome words\nb: 2\n',
    '? a\n: 1\nb: 2\n',
    '? [a, b]\n: 1\nc: 2\n',
    'a: 2e-5\nb: 1:30\nc: yes\nd: ~\ne: 0o7\nf: 2020-01-02\n',
    '"a": 1\nb: 2\n',
    'a: !!set {x, y}\nb: !!binary aGk=\n',
    'a: !unknown 1\nb: 2\n',
    '- a\nb: 1\n',
    'a: 1\n\tb: 2\n',
    'yes: 1\nno: 2\n',
    'a: 1 # why\nb: "#"\n',
    '\ufeffa: 1\nb: 2\n',
)


def whole(text):
    """What YAML says of a text; None where it is no table of keys."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return (
        [(str(key), value) for key, value in values.items()] if isinstance(values, dict) else None
    )


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT / 'params')))
def test_a_file_of_params_is_the_same_by_key(path):
    text = path.read_text('utf-8')
    values = _read_by_key(text)
    if values:
        assert list(values.items()) == whole(text)


def test_every_file_of_runs_is_read_by_key():
    others = [path for path in filter(describes_runs, FILES) if not _read_by_key(path.read_text())]
    assert not others


@pytest.mark.parametrize('text', ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_an_odd_text_is_the_same_by_key_or_is_read_as_a_whole(text):
    values = _read_by_key(text)
    if values:
        assert list(values.items()) == whole(text)


def test_values_of_one_file_are_no_part_of_another(tmp_path):
    for name in ('one', 'two'):
        (tmp_path / f'{name}.yaml').write_text('test_sets:\n- dl19\n')
    one, two = (read_parameters(tmp_path / f'{name}.yaml')[0] for name in ('one', 'two'))
    one['test_sets'].append('dl20')
    assert two['test_sets'] == ['dl19']


def test_lines_that_were_read_before_are_not_parsed_again(tmp_path):
    text = 'seed: 4711\nepochs: 815\n'
    _read_by_key(text)
    before = _parse_lines.cache_info().misses
    assert _read_by_key(text + 'layers: 1234\n')['layers'] == 1234
    assert _parse_lines.cache_info().misses == before + 1


def test_a_mistake_is_told_with_the_line_of_the_file(tmp_path):
    (tmp_path / 'run.yaml').write_text('seed: 12\nepochs: 2\nlayers: [1,\n')
    with pytest.raises(KitError, match=r'run.yaml is not valid YAML: .*line 4'):
        read_parameters(tmp_path / 'run.yaml')


@pytest.mark.parametrize('word', ['l2-adamw-0', 'no-12', 'e-5', 'null-1', 'a.b-c_d', 'yes-', 'no'])
def test_a_word_with_a_hyphen_is_text(word):
    text = f'name: {word}\n'
    assert list(_read_by_key(text).items()) == whole(text)


def test_long_text_above_a_separator_takes_no_time():
    """Each of the words would double it, if a line could be divided at its spaces."""
    text = f'title: {"word " * 60}\n---\nseed: 12\n'
    assert _read_by_key(text) == {}


def test_a_file_that_is_named_in_two_ways_describes_its_run_once(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = Path('params/demo/demo-lion.yaml')
    assert len(read_configs([path, path.absolute(), path.parent])) == 2
