"""What a person sees: the live view of runs, tables that fit, help, and the Tab key."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import ROOT
from kit import REPRODUCE, reproduce_here, write_yaml
from terminal import printed, screen, spawn, spawn_python

from reproduce_kit.cli.app import SECTIONS, main
from reproduce_kit.cli.completion import _config_files
from reproduce_kit.cli.tables import text_columns
from reproduce_kit.config.files import describes_runs, read_configs
from reproduce_kit.core import write_json
from reproduce_kit.engines.hand_over import note_hand_over
from reproduce_kit.engines.run_look import look_at
from reproduce_kit.engines.run_rows import RunRow
from reproduce_kit.store.events import EventKind
from reproduce_kit.store.progress import record_event
from reproduce_kit.store.run import RunState, run_folder
from reproduce_kit.testing.fake_runs import fake_run

# Two runs as training writes them, told of and drawn as `reproduce run` does it.
TWO_RUNS = """
import os, time
from reproduce_kit.cli.live_view import LiveView
from reproduce_kit.config.files import read_configs
from reproduce_kit.core import write_json
from reproduce_kit.engines.run_look import watch_runs
from reproduce_kit.engines.side_by_side import numbered_runs
from reproduce_kit.store.history import append_history
from reproduce_kit.store.run import RunState, run_folder

configs = read_configs(['params/demo'])
runs = numbered_runs(configs)
with LiveView(err=False) as view, watch_runs(runs, view.say, view.show) as watched:
    for cfg in configs:
        folder = run_folder(cfg)
        folder.mkdir(parents=True)
        watched.begin(cfg)
        for step in (5, 10):
            append_history(folder, dict(step=step, epoch=step / 20, loss=0.5, learning_rate=4e-5))
            time.sleep(float(os.environ.get('SECONDS', 0)))
        means = dict(test={'nDCG@10': 0.25})
        write_json(folder / 'epoch-1/metrics.json', dict(means=means))
        watched.end(cfg, RunState.DONE)
        view.say('a line of the command')
"""
EVENTS = [
    '[1/2] demo-adamw: started',
    '[1/2] demo-adamw: epoch 1 of 1: nDCG@10 0.2500 on test',
    'a line of the command',
    '[2/2] demo-lion: started',
    '[2/2] demo-lion: epoch 1 of 1: nDCG@10 0.2500 on test',
    'a line of the command',
]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty run store, seen from the clone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('REPRODUCE_RUNS', str(tmp_path / 'runs'))
    return tmp_path / 'runs'


# --- the live view ---


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """What two runs wrote to a terminal of 80 columns."""
    env = dict(REPRODUCE_RUNS=tmp_path_factory.mktemp('drawn') / 'runs', SECONDS=1.2)
    return printed(spawn_python(TWO_RUNS, env=env))


def test_a_terminal_shows_how_far_each_run_is(drawn):
    assert '0 done, 1 running, 1 waiting, 0 failed' in drawn
    assert '1 done, 1 running, 0 waiting, 0 failed' in drawn
    head, row = 'run +epoch +updates +rate +loss', r'demo-adamw +0\.\d/1 +\d+/20 +4\.0e-05 +0\.500'
    assert re.search(head, drawn) and re.search(row, drawn), drawn


MANY_LOOKS = """
import time
from reproduce_kit.cli.live_view import LiveView
from reproduce_kit.engines.run_look import RunLook
from reproduce_kit.store.run import RunState

begin = time.monotonic()
with LiveView(err=False) as view:
    while time.monotonic() < begin + 2.5:
        view.show([RunLook('demo-lion', RunState.RUNNING)])
"""


def test_the_view_is_drawn_again_once_a_second():
    frames = printed(spawn_python(MANY_LOOKS)).count('1 running')
    assert frames == 3 + 1  # and once more at its end


def test_the_view_disappears_and_the_lines_of_events_remain(drawn):
    assert screen(drawn) == EVENTS


def test_the_cursor_is_visible_while_the_view_is_drawn(drawn):
    hidden = drawn.index('\x1b[?25l')
    assert drawn.index('\x1b[?25h', hidden) < drawn.index('running')


@pytest.mark.parametrize('env', [dict(TERM='dumb'), dict(JPY_PARENT_PID='1')], ids=list)
def test_a_terminal_that_cannot_redraw_gets_lines_alone(env, store):
    output = printed(spawn_python(TWO_RUNS, env=env | dict(REPRODUCE_RUNS=store)))
    assert output.splitlines() == EVENTS


def test_a_pipe_gets_a_line_per_event_and_no_control_characters(store):
    code = [sys.executable, '-c', TWO_RUNS]
    process = subprocess.run(code, capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.splitlines() == EVENTS
    assert process.stderr == ''


def test_nothing_is_coloured(drawn):
    assert not re.search(r'\x1b\[[0-9;]*m', drawn)


def test_ctrl_c_leaves_a_whole_terminal(store):
    child = spawn_python(TWO_RUNS, env=dict(REPRODUCE_RUNS=store, SECONDS=60))
    child.expect('demo-adamw +0')  # the view is drawn
    time.sleep(0.4)  # between two drawings, which are a second apart
    before = child.before + child.after
    child.sendintr()
    text = before + printed(child)
    assert not any('1 running' in line for line in screen(text))
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')


@pytest.mark.soak
def test_ctrl_c_during_a_run_leaves_a_whole_terminal_and_says_how_to_go_on(store, tmp_path):
    params = tmp_path / 'params'
    params.mkdir()
    path = write_yaml(params, 'smoke', epochs=40)
    child = spawn(REPRODUCE, 'run', path, env=dict(REPRODUCE_RUNS=store))
    child.expect(r'smoke +\d+\.\d/40 +\d+/')  # an update was logged
    before = child.before + child.after
    child.sendintr()
    text = before + child.read()
    child.close()
    assert child.exitstatus == 130, text
    assert 'the same command continues from the last checkpoint' in ' '.join(screen(text))
    assert not any('running' in line for line in screen(text))
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')


def test_runs_of_every_engine_are_looked_at_in_the_same_way():
    (cfg, _) = read_configs(['params/demo'])
    row = RunRow(cfg=cfg, path='', job='1', state=RunState.RUNNING, step=10, of=20, eta=60.0)
    folder = run_folder(cfg)
    folder.mkdir(parents=True)
    (folder / 'history.jsonl').write_text(
        '{"step": 12, "epoch": 0.6, "loss": 0.4, "learning_rate": 1e-05}\n{"st'
    )
    elsewhere, here = look_at(row, False), look_at(row, True)
    assert (elsewhere.step, elsewhere.epoch, elsewhere.loss) == (10, 0.5, None)
    assert (here.step, here.epoch, here.loss, here.eta) == (12, 0.6, 0.4, 60.0)


def test_a_copy_of_an_epoch_next_to_it_is_no_epoch():
    (cfg, _) = read_configs(['params/demo'])
    row = RunRow(cfg=cfg, path='', job='1', state=RunState.RUNNING, step=10, of=20, eta=60.0)
    for name, value in {'epoch-1': 0.25, 'epoch-2-copy': 0.75}.items():
        write_json(run_folder(cfg) / name / 'metrics.json', dict(means={'test': {'MAP': value}}))
    look = look_at(row, True)
    assert (look.measured, look.measure) == (1, 'MAP 0.2500 on test')


# --- tables and sentences ---

COMMANDS = [
    'list params/demo params/embedded',
    'list params/demo --on slurm',
    'plan params/embedded params/lion-vs-adamw/as-run',
    'plan params/lion-vs-adamw --on modal',
    'engines',
    'check params/lion-vs-adamw/as-run',
    'check params/demo',
    'claims lion-vs-adamw',
    'compare demo-adamw demo-lion',
    'doctor',
    'data list',
    'why paper/tables/effects.tex',
    'logs demo-lion',
]
ALL_COMMANDS = """
import fcntl, struct, sys, termios
from reproduce_kit.cli.app import main
for width in (80, 40):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, width, 0, 0))
    print('width', width, flush=True)
    for line in sys.argv[1:]:
        print('$', line, flush=True)
        try:
            main(line.split(), prog_name='reproduce')
        except SystemExit as end:
            assert end.code in (0, 1, 3), end
"""


def finish(config):
    topics = pd.Index(['q1', 'q2'], name='qid')
    values = pd.DataFrame(0.25, index=topics, columns=['nDCG@10', 'AP(rel=1)'])
    fake_run(config, {epoch: {'test': values} for epoch in config.measured_epochs})


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """What the commands print on a terminal of 80 columns, and after it is narrowed to 40."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv('REPRODUCE_RUNS', str(tmp_path_factory.mktemp('shown') / 'runs'))
        for config in read_configs(['params/demo']):
            finish(config)
        program = (sys.executable, '-c', ALL_COMMANDS, *COMMANDS)
        text = printed(spawn(*program, env=dict(REPRODUCE_PAPER=ROOT / 'paper')))
    assert 'Traceback' not in text, text
    _, wide, narrow = text.replace('\r', '').split('width ')
    return {80: wide, 40: narrow}


@pytest.mark.parametrize('width', [80, 40])
def test_every_table_fits_the_terminal(shown, width):
    lines = shown[width].splitlines()
    assert [line[2:] for line in lines if line.startswith('$ ')] == COMMANDS
    long = [line for line in lines if len(line) > width and not line.startswith(('$ ', 'next: '))]
    assert [line for line in long if not has_a_wide_word(line, width)] == []


def has_a_wide_word(line: str, width: int) -> bool:
    """A path or a name is never broken, so that it can be copied."""
    indent = len(line) - len(line.lstrip())
    return any(indent + len(word) > width for word in line.split())


def test_what_is_piped_is_neither_cut_nor_wrapped():
    whole = reproduce_here('claims', 'lion-vs-adamw').stdout
    assert '...' not in whole.replace('[...]', '')
    assert 'Cross-encoder models have demonstrated state-of-the-art effectiveness' in whole


ROWS = [('demo', 'minilm-l6-lion', '0.5012 [0.4901, 0.5123]', 'the loss is not a number')] * 2


@pytest.mark.parametrize('width', range(24, 100, 4))
def test_no_word_number_or_interval_is_broken_by_a_narrow_terminal(width):
    text = text_columns(ROWS, ('study', 'run', 'nDCG@10', 'message'), width)
    assert max(map(len, text.splitlines())) <= width, text
    for word in ('minilm-l6-lion', '0.5012', '[0.4901, 0.5123]', 'number', 'nDCG@10'):
        assert word in text, text


def test_a_column_that_says_the_same_in_each_row_is_said_once_where_space_is_short():
    rows = [('demo', 'lion', 'x' * 20), ('demo', 'adamw', 'y' * 20)]
    assert text_columns(rows, ('study', 'run', 'note'), 30).startswith('study: demo\nrun')
    assert text_columns(rows, ('study', 'run', 'note'), 80).startswith('study  run')


# --- help ---


def all_commands(group=main, words=()):
    for name, command in group.commands.items():
        yield (*words, name), command
        if hasattr(command, 'commands'):
            yield from all_commands(command, (*words, name))


HELP = dict(all_commands())


@pytest.mark.parametrize('words', HELP, ids=' '.join)
def test_help_fits_80_columns_and_has_an_example(words):
    result = CliRunner().invoke(main, [*words, '--help'], env=dict(COLUMNS='80'))
    lines = result.output.splitlines()
    assert result.exit_code == 0 and max(map(len, lines)) <= 80
    assert f'Example: reproduce {" ".join(words)}' in result.output


def test_reproduce_alone_says_what_to_do_first():
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert result.output.startswith('First steps:\n  reproduce doctor ')
    assert 'reproduce --help' in result.output and 'Commands' not in result.output


def test_set_up_comes_first_in_the_help():
    assert list(SECTIONS) == ['Set-up', 'Study', 'Results', 'Checks', 'Other machines']


# --- the Tab key ---


def offered(*words) -> list:
    """What the shell is offered for the last word."""
    shell = ShellComplete(main, {}, 'reproduce', '_REPRODUCE_COMPLETE')
    *before, incomplete = words
    return [item.value for item in shell.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    ('words', 'some'),
    [
        (('co',), ['compare', 'completion']),
        (('run', 'par'), ['params/demo', 'params/embedded']),
        (('run', 'params/demo/'), ['params/demo/demo-adamw.yaml', 'params/demo/demo-lion.yaml']),
        (('run', 'params/demo', '--on', ''), ['local', 'modal', 'slurm']),
        (('report', 'lion'), ['lion-vs-adamw']),
        (('sweep', 'lion-vs-adamw/m'), ['lion-vs-adamw/minilm', 'lion-vs-adamw/modernbert']),
        (('logs', 'demo-l'), ['demo-lion']),
        (
            ('stop', 'params/lion-vs-adamw/as-run/gte-l'),
            ['params/lion-vs-adamw/as-run/gte-lion.yaml'],
        ),
        (('evaluate', 'gte-lion', '--set', 'dl'), ['dl19', 'dl20']),
        (('tables', '--recipe', 'as-'), ['as-discussed', 'as-run', 'as-stated']),
        (('tables', '--study', 'mini'), ['minilm-scaling']),
        (('completion', 'z'), ['zsh']),
    ],
    ids=' '.join,
)
def test_the_tab_key_offers(words, some):
    assert set(some) <= set(offered(*words))


def test_the_files_of_runs_are_known_without_reading_them(tmp_path):
    named = tmp_path / 'mine/recipe/study-a.yaml'
    named.parent.mkdir(parents=True)
    named.touch()
    assert _config_files(tmp_path) == [named]
    files = sorted((ROOT / 'params').rglob('*.yaml'))
    assert _config_files(ROOT / 'params') == list(filter(describes_runs, files))


def test_a_folder_of_encoders_is_no_recipe():
    assert offered('tables', '--recipe', 'bi-') == []


def test_only_finished_runs_are_offered_where_only_they_can_be_meant():
    assert offered('compare', '') == []
    for config in read_configs(['params/demo/demo-lion.yaml']):
        finish(config)
    (name,) = offered('compare', '')
    assert name.startswith('demo-lion-')
    assert offered('push', 'demo') == [name]


def test_a_new_study_is_not_completed_to_one_that_exists():
    assert offered('new', 'em') == []


def test_outside_a_clone_nothing_is_offered_and_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.delenv('REPRODUCE_ROOT')
    monkeypatch.chdir(tmp_path)
    assert offered('report', '') == [] and offered('logs', '') == []


def test_a_folder_that_is_no_clone_offers_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv('REPRODUCE_ROOT', str(tmp_path))
    assert offered('report', '') == [] and offered('logs', '') == []


def test_an_answer_to_the_shell_imports_no_other_room():
    code = (
        'import os, sys; from reproduce_kit.cli.app import main\n'
        'try:\n    main(prog_name="reproduce")\n'
        'except SystemExit:\n'
        '    slow = ("yaml", "pydantic", "rich", "numpy", "pandas", "torch", "modal")\n'
        '    print([name for name in slow if name in sys.modules])\n'
    )
    words = dict(COMP_WORDS='reproduce logs demo-l', COMP_CWORD='2')
    env = words | dict(_REPRODUCE_COMPLETE='bash_complete')
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=os.environ | env
    )
    assert process.stdout.splitlines() == ['plain,demo-lion', '[]'], process.stderr


def test_bash_completes_with_the_printed_script(tmp_path):
    script = tmp_path / 'completion.bash'
    script.write_text(CliRunner().invoke(main, ['completion', 'bash']).output)
    lines = [
        f'PATH={Path(REPRODUCE).parent}:$PATH; source {script}; complete -p reproduce',
        'COMP_WORDS=(reproduce report lion); COMP_CWORD=2',
        '_reproduce_completion reproduce; echo "${COMPREPLY[@]}"',
    ]
    process = subprocess.run(
        ['bash', '--norc', '-c', '\n'.join(lines)], capture_output=True, text=True, cwd=ROOT
    )
    assert process.stdout.splitlines()[-1] == 'lion-vs-adamw', process.stderr


# --- where a run is ---


def test_a_run_is_looked_for_where_it_was_given_to():
    (cfg,) = read_configs(['params/demo/demo-lion.yaml'])
    result = reproduce_here('stop', 'demo-lion')
    assert result.returncode == 1 and 'say where it is with --on' in result.stderr
    note_hand_over([cfg], 'slurm')
    result = reproduce_here('stop', 'demo-lion')
    assert result.returncode == 1 and 'not under way on SLURM' in result.stderr


def test_a_run_that_was_continued_here_is_here():
    (cfg,) = read_configs(['params/demo/demo-lion.yaml'])
    note_hand_over([cfg], 'slurm')
    record_event(run_folder(cfg), EventKind.STARTED, 1, where='local')
    result = reproduce_here('stop', 'demo-lion')
    assert result.returncode == 1 and 'which Ctrl-C stops' in result.stderr


def test_results_are_fetched_from_where_the_study_was_given_to():
    (cfg,) = read_configs(['params/demo/demo-lion.yaml'])
    note_hand_over([cfg], 'slurm')
    result = reproduce_here('fetch', 'demo')
    assert result.returncode == 1 and 'has ended on SLURM' in result.stderr


# --- a limit for a plan ---

AS_RUN = 'params/lion-vs-adamw/as-run'


def test_a_plan_that_a_limit_does_not_cover_is_exit_code_1():
    result = reproduce_here('plan', AS_RUN, '--on', 'modal', '--max-dollars', 20)
    assert result.returncode == 1
    assert '20.00 dollars would not cover them: ' in result.stderr
    assert reproduce_here('plan', AS_RUN, '--on', 'modal', '--max-dollars', 1000).returncode == 0


def test_a_limit_without_a_price_is_an_error():
    result = reproduce_here('plan', AS_RUN, '--max-dollars', 20)
    assert result.returncode == 1 and 'add --on modal' in result.stderr
    result = reproduce_here('plan', AS_RUN, '--on', 'slurm', '--max-dollars', 20)
    assert result.returncode == 1 and 'are not rented' in result.stderr
