"""One interface: what every engine answers, and how a further one is found."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from kit import reproduce_here, write_yaml

import reproduce_kit.engines
from reproduce_kit.core import KitError
from reproduce_kit.engines.engine import Engine, Queue, find_queue
from reproduce_kit.engines.registry import engine_names, find_engine

FOURTH = """
from reproduce_kit.engines.local_engine import LocalEngine

class FourthEngine(LocalEngine):
    name, title = 'fourth', 'a fourth place'

ENGINE = FourthEngine()
"""


@pytest.mark.parametrize('name', engine_names())
def test_an_engine_has_all_that_the_protocol_asks_for(name):
    engine = find_engine(name)
    assert isinstance(engine, Engine) and engine.name == name
    for check in engine.needs().values():
        assert callable(check)


def test_runs_can_be_handed_to_all_engines_but_this_machine():
    queues = [name for name in engine_names() if isinstance(find_engine(name), Queue)]
    assert queues == ['modal', 'slurm']
    with pytest.raises(KitError, match='Ctrl-C stops; use --on modal or slurm'):
        find_queue('local')


def test_a_fourth_engine_is_one_file(tmp_path, monkeypatch):
    (tmp_path / 'fourth_engine.py').write_text(FOURTH)
    monkeypatch.setattr(
        reproduce_kit.engines, '__path__', [*reproduce_kit.engines.__path__, str(tmp_path)]
    )
    assert engine_names() == ['local', 'fourth', 'modal', 'slurm']
    assert find_engine('fourth').title == 'a fourth place'


def test_lists_of_runs_here_and_on_slurm_do_not_import_modal(tmp_path):
    path = write_yaml(tmp_path, 'smoke')
    code = (
        'import sys\n'
        'from click.testing import CliRunner\n'
        'from reproduce_kit.cli.app import main\n'
        f'for on in ("local", "slurm"):\n'
        f'    result = CliRunner().invoke(main, ["list", {str(path)!r}, "--on", on])\n'
        '    assert result.exit_code == 0, result.output\n'
        'print([name for name in ("modal", "torch") if name in sys.modules])\n'
    )
    process = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=os.environ, cwd=ROOT
    )
    assert process.stdout.strip() == '[]', process.stdout + process.stderr


def test_an_engine_that_does_not_exist_is_an_error_with_those_that_do():
    result = reproduce_here('list', '--on', 'slrum')
    assert result.returncode == 2 and "'local', 'modal', 'slurm'" in result.stderr
