"""The command line from outside.

Names, help, JSON keys, exit codes, and the steps of a study on Modal."""

import ast
import errno
import inspect
import itertools
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ROOT

import reproduce_kit.engines.following as following
import reproduce_kit.engines.modal_client as modal_client
import reproduce_kit.engines.modal_files as modal_files
import reproduce_kit.engines.modal_session as modal_session
from reproduce_kit.cli.app import SECTIONS, main
from reproduce_kit.cli.doctor import CHECKS
from reproduce_kit.engines.engine import FetchedStudy
from reproduce_kit.engines.run_rows import RunRow
from reproduce_kit.store.run import RunState

NAMES = {
    'Set-up': ['init', 'doctor', 'data', 'completion'],
    'Study': ['new', 'list', 'plan', 'prepare', 'sweep', 'run', 'logs'],
    'Results': [
        *['rerank', 'retrieve', 'evaluate', 'tables', 'figures', 'paper'],
        *['report', 'scoreboard', 'export', 'push'],
    ],
    'Checks': ['check', 'claims', 'compare', 'why'],
    'Other machines': ['engines', 'fetch', 'stop'],
}
OPTIONS = {
    'init': ['folder', '--json'],
    'new': ['study', '--json'],
    'list': ['paths', '--on', '--json'],
    'plan': ['paths', '--on', '--rates', '--max-dollars', '--script', '--json'],
    'prepare': ['paths', '--json'],
    'sweep': ['study', '--jobs', '--json'],
    'run': [
        *['paths', '--on', '--jobs', '--json', '--track', '--yes'],
        *['--max-dollars', '--secret', '--detach', '--rates'],
    ],
    'logs': ['run', '--on', '--lines', '--json'],
    'rerank': [
        *['--checkpoint', '--collection', '--split', '--depth'],
        *['--max-length', '--measure', '--out', '--json'],
    ],
    'retrieve': ['--model', '--collection', '--split', '--depth', '--out', '--json'],
    'tables': ['--study', '--recipe', '--json'],
    'figures': ['--study', '--recipe', '--json'],
    'paper': ['--study', '--recipe', '--json'],
    'report': ['study', '--recipe', '--out', '--json'],
    'scoreboard': ['study', '--out', '--json'],
    'export': ['what', '--trec', '--crate', '--to', '--epoch', '--set', '--json'],
    'push': ['run', '--epoch', '--to', '--yes', '--json'],
    'engines': ['--write', '--json'],
    'fetch': ['study', '--checkpoints', '--on', '--json'],
    'stop': ['run', '--on', '--json'],
    'evaluate': ['run', '--epoch', '--set', '--on', '--json'],
    'check': ['paths', '--against', '--json'],
    'claims': ['study', 'words', '--json'],
    'compare': ['first', 'second', '--epoch', '--json'],
    'why': ['file', 'cell', '--json'],
    'doctor': ['--on', '--json'],
    'data': [],
    'completion': ['shell'],
}
EMBEDDED = 'params/embedded'
AS_RUN = 'params/lion-vs-adamw/as-run'


@pytest.fixture(autouse=True)
def empty_store(tmp_path, monkeypatch):
    """A clone without runs, as a user sees it from its root."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return tmp_path / 'runs'


def reproduce(*words, **options):
    return CliRunner().invoke(main, [str(word) for word in words], **options)


def answer(*words):
    """What a command prints with --json."""
    result = reproduce(*words, '--json')
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- names and help ---


def test_every_command_is_in_exactly_one_section():
    listed = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(listed) == sorted(main.commands)
    assert {head: [c.name for c in commands] for head, commands in SECTIONS.items()} == NAMES


def test_every_command_has_its_arguments_and_options():
    assert {
        name: [parameter.opts[0] for parameter in command.params]
        for name, command in main.commands.items()
    } == OPTIONS


def test_help_lists_the_commands_under_their_headings():
    lines = reproduce('--help').output.splitlines()
    heads = [f'{section}:' for section in NAMES]
    assert [line for line in lines if line in heads] == heads
    for head, names in NAMES.items():
        start = lines.index(f'{head}:') + 1
        assert [line.split()[0] for line in lines[start : start + len(names)]] == names


def test_the_one_line_help_of_every_command_is_a_whole_sentence():
    lines = reproduce('--help').output.splitlines()
    for line in lines[lines.index('Set-up:') :]:
        if line.startswith('  '):
            assert line.endswith('.') and not line.endswith('...'), line


@pytest.mark.parametrize('name', sorted(OPTIONS))
def test_every_command_explains_itself(name):
    result = reproduce(name, '-h')
    assert result.exit_code == 0
    assert result.output.startswith(f'Usage: main {name}')


@pytest.mark.parametrize('name', sorted(OPTIONS.keys() - {'data', 'doctor'}))
def test_a_command_with_arguments_has_an_example_that_can_be_typed(name):
    example = main.commands[name].epilog.removeprefix('Example: reproduce ')
    words = example.split()
    assert words[0] == name
    main.commands[name].make_context(name, words[1:])  # a usage error would be raised


@pytest.mark.parametrize('name', sorted(OPTIONS))
def test_a_command_parses_calls_and_renders_in_few_lines(name):
    source = inspect.getsource(main.commands[name].callback)
    (function,) = ast.parse(source).body
    body = function.body[1:] if ast.get_docstring(function) else function.body
    lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
    assert lines <= 15


# --- exit codes ---


def test_an_unknown_command_is_a_usage_error_that_names_the_nearest():
    result = reproduce('lsit')
    assert result.exit_code == 2
    assert "no command 'lsit'; did you mean 'list'?" in result.stderr


def test_an_unknown_option_is_a_usage_error():
    assert reproduce('list', '--jsno').exit_code == 2


def test_a_user_error_is_one_message_and_exit_code_1():
    result = reproduce('run', f'{EMBEDDED}-depth/minilm-l6-loin.yaml')
    assert result.exit_code == 1
    assert result.stderr.startswith('error: ') and result.stdout == ''
    assert "did you mean 'params/embedded-depth/minilm-l6-lion.yaml'?" in result.stderr


def test_ctrl_c_is_exit_code_130_and_says_that_finished_work_is_kept(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, 'folder', interrupt)
    result = reproduce('doctor')
    assert result.exit_code == 130
    assert 'finished work is kept' in result.stderr


def test_a_read_only_file_system_is_named_with_what_to_do(monkeypatch):
    def read_only(*paths, **options):
        raise OSError(errno.EROFS, 'Read-only file system', 'runs/embedded')

    monkeypatch.setattr('reproduce_kit.config.files.read_configs', read_only)
    result = reproduce('list')
    assert result.exit_code == 1
    assert 'cannot write runs/embedded' in result.stderr


def test_check_of_named_rows_that_were_not_run_is_exit_code_3():
    assert reproduce('check', AS_RUN).exit_code == 3


def test_check_of_everything_is_exit_code_0_before_the_first_run():
    assert reproduce('check').exit_code == 0


def test_a_word_that_means_several_runs_lists_them():
    result = reproduce('logs', 'gte-lion', '--on', 'local')
    assert result.exit_code == 1
    assert "'gte-lion' means 2 runs" in result.stderr
    assert 'lion-vs-adamw/as-run/gte-lion' in result.stderr


@pytest.mark.parametrize(
    'word', ['minilm-l6-lion', 'controlled/minilm-l6-lion', f'{EMBEDDED}-depth/minilm-l6-lion.yaml']
)
def test_a_run_may_be_called_by_its_name_its_recipe_or_its_file(word):
    assert 'minilm-l6-lion' in answer('logs', word, '--on', 'local')['run']


# --- JSON ---


def test_list_has_one_row_per_config_with_the_same_keys():
    keys = (
        'study recipe name identity title optimizer state updates of measure epochs selected final'
    )
    rows = answer('list', EMBEDDED, 'params/tite')
    assert {tuple(row) for row in rows} == {(*keys.split(), 'folder')}
    assert {row['state'] for row in rows} == {'not run'}
    assert {'controlled', 'encoders', 'bi-encoders'} == {row['recipe'] for row in rows}


def test_plan_has_a_row_per_run_and_the_gpu_hours_to_do():
    plan = answer('plan', AS_RUN)
    assert list(plan) == ['runs', 'gpu_hours']
    assert plan['gpu_hours'] == pytest.approx(sum(r['gpu_hours'] for r in plan['runs']), abs=0.1)
    assert {
        *['study', 'recipe', 'name', 'identity', 'backbone', 'optimizer', 'epochs', 'updates'],
        *['batch', 'schedule', 'seed', 'parameters', 'memory_gib', 'gpu', 'gpus', 'gpu_hours'],
        *['hours', 'here', 'hours_from', 'fits', 'state', 'plan_error'],
        *['hours_low', 'hours_high', 'parts', 'score_precision'],
    } <= set(plan['runs'][0])


def test_plan_on_modal_adds_dollars_and_the_rates_they_are_from():
    plan = answer('plan', AS_RUN, '--on', 'modal')
    totals = ['dollars', 'dollars_low', 'dollars_high']
    assert list(plan) == ['runs', 'gpu_hours', *totals, 'rates', 'stages']
    assert plan['dollars_low'] < plan['dollars'] < plan['dollars_high']
    assert plan['dollars'] == pytest.approx(sum(r['dollars'] for r in plan['runs']), abs=0.01)
    assert set(plan['rates']) == {'dollars', 'source'}


def test_check_has_runs_and_cells():
    result = reproduce('check', AS_RUN, '--json')
    checked = json.loads(result.stdout)
    assert list(checked) == ['runs', 'against', 'cells']
    assert {cell['recipe'] for cell in checked['cells']} == {'as-run'}


def test_doctor_has_a_finding_per_check():
    findings = json.loads(reproduce('doctor', '--json').stdout)
    assert [finding['what'] for finding in findings] == list(CHECKS)
    assert {tuple(finding) for finding in findings} == {('what', 'ok', 'finding')}


# --- a study on Modal, whose client is replaced: what is started, followed and fetched ---


class FakeModal:
    """Stands in for Modal: states that you choose, calls that are recorded."""

    def __init__(self, monkeypatch, before=None, after=None, interrupt=False):
        self.before, self.after, self.interrupt = before or {}, after or {}, interrupt
        self.looks, self.calls = itertools.count(), []
        for module, names in {
            modal_client: ('remote_states', 'start_study'),
            following: ('follow_runs',),
            modal_session: ('connect',),
            modal_files: ('fetch_study',),
        }.items():
            for name in names:
                monkeypatch.setattr(module, name, getattr(self, name))

    def connect(self):
        pass

    def row(self, config, states):
        state = states.get(config.name, 'not run')
        dollars = 0.5 if config.name in states else None
        return RunRow(cfg=config, path='', job=None, state=RunState(state), dollars=dollars)

    def remote_states(self, configs):
        states = self.before if next(self.looks) == 0 else self.after
        return [self.row(config, states) for config in configs]

    def start_study(self, engine, configs, order, say):
        names = [config.name for config in configs]
        self.calls.append(('start', names, list(order.secrets), order.track))
        return 'fc-1'

    def follow_runs(self, engine, configs, submission, say, show):
        self.calls.append(('follow', [config.name for config in configs]))
        if self.interrupt:
            raise KeyboardInterrupt
        return [self.row(config, self.after) for config in configs]

    def fetch_study(self, study, checkpoints, say):
        self.calls.append(('fetch', study))
        return FetchedStudy(['a/done.json'], [], 1, ['a'], 1.25, 'estimated')


PAIR = (f'{AS_RUN}/gte-adamw.yaml', f'{AS_RUN}/gte-lion.yaml')


def run_pair(*options, **more):
    return reproduce('run', *PAIR, '--on', 'modal', *options, **more)


def done(*names):
    return dict.fromkeys(names, 'done')


def test_a_study_on_modal_is_started_followed_and_brought_home(monkeypatch):
    cloud = FakeModal(monkeypatch, after=done('gte-adamw', 'gte-lion'))
    result = run_pair('--yes', '--track', 'wandb', '--secret', 'huggingface', '--json')
    assert result.exit_code == 0, result.output
    names = ['gte-adamw', 'gte-lion']
    assert cloud.calls == [
        ('start', names, ['huggingface', 'wandb'], 'wandb'),
        ('follow', names),
        ('fetch', 'lion-vs-adamw'),
    ]
    summary = json.loads(result.stdout)
    assert list(summary) == ['started', 'left', 'call', 'ends', 'brought']
    assert 'fetched' not in summary['brought']['lion-vs-adamw']


def test_nothing_is_started_unless_the_question_is_answered_with_yes(monkeypatch):
    cloud = FakeModal(monkeypatch)
    result = run_pair(input='n\n')
    assert result.exit_code == 1 and 'nothing was started' in result.stderr
    assert cloud.calls == []


def test_what_is_done_or_under_way_is_not_started_again(monkeypatch):
    cloud = FakeModal(monkeypatch, before={'gte-adamw': 'done', 'gte-lion': 'waiting'})
    cloud.after = done('gte-adamw', 'gte-lion')
    assert run_pair('--yes').exit_code == 0
    assert cloud.calls == [('follow', ['gte-lion']), ('fetch', 'lion-vs-adamw')]


def test_a_limit_counts_what_the_runs_under_way_are_expected_to_cost(monkeypatch):
    cloud = FakeModal(monkeypatch, before={'gte-lion': 'running'})
    result = run_pair('--yes', '--detach', '--max-dollars', 12)  # each costs about 8 dollars
    assert result.exit_code == 0
    assert '12.00 dollars would not cover them: gte-adamw' in result.stderr
    assert cloud.calls == []


def test_detach_starts_and_neither_follows_nor_fetches(monkeypatch):
    cloud = FakeModal(monkeypatch)
    result = run_pair('--yes', '--detach')
    assert result.exit_code == 0 and 'handed over (fc-1)' in result.stdout
    assert [call[0] for call in cloud.calls] == ['start']


def test_ctrl_c_ends_the_watching_and_not_the_runs(monkeypatch):
    FakeModal(monkeypatch, interrupt=True)
    result = run_pair('--yes')
    assert result.exit_code == 130 and 'the runs go on' in result.stderr


def test_a_failed_run_comes_home_and_is_exit_code_1(monkeypatch):
    cloud = FakeModal(monkeypatch, after={'gte-adamw': 'done', 'gte-lion': 'failed'})
    result = run_pair('--yes')
    assert result.exit_code == 1 and 'gte-lion failed: ' in result.stdout
    assert cloud.calls[-1] == ('fetch', 'lion-vs-adamw')


def test_runs_that_are_done_are_only_brought_home(monkeypatch):
    cloud = FakeModal(monkeypatch, before=done('gte-adamw', 'gte-lion'))
    cloud.after = cloud.before
    result = run_pair()
    assert result.exit_code == 0 and '1 run brought home' in result.stdout
    assert cloud.calls == [('fetch', 'lion-vs-adamw')]


# --- start-up ---


def test_help_imports_no_heavy_library():
    """`reproduce --help` answers at once: what takes long to import is imported by the commands."""
    code = (
        'import sys, reproduce_kit.cli.app; '
        "print([m for m in ('torch', 'pandas', 'numpy', 'pydantic', 'modal') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=os.environ, cwd=ROOT
    )
    assert process.stdout.strip() == '[]', process.stdout + process.stderr
