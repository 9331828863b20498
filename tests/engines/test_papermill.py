"""An error in a kernel keeps its class, its message and its cell."""

from pathlib import Path

import nbformat
import pytest

from reproduce_kit.config.files import make_config
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import DiskFull, KitError, NotCached
from reproduce_kit.engines.papermill import execute_notebook, execute_rank, process_count


@pytest.fixture
def execute(tmp_path):
    """Execute a notebook of one cell."""

    def run(code):
        cells = [nbformat.v4.new_code_cell('x = 1'), nbformat.v4.new_code_cell(code)]
        cells[0].metadata.tags = ['parameters']
        kernel = dict(name='python3', language='python', display_name='python3')
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))
        nbformat.write(notebook, tmp_path / 'page.ipynb')
        execute_notebook(tmp_path / 'page.ipynb', tmp_path / 'out.ipynb', dict(x=2))

    return run


@pytest.mark.parametrize('kind', [KitError, NotCached, DiskFull])
def test_an_error_of_the_kit_keeps_class_and_message(execute, tmp_path, kind):
    with pytest.raises(KitError) as caught:
        execute(f'from reproduce_kit.core import *\nraise {kind.__name__}("weights: not here")')
    assert type(caught.value) is kind
    assert str(caught.value).startswith('weights: not here\nWhat was finished before is kept')
    assert caught.value.cell == 2 and 'raise' in caught.value.traceback
    assert not (tmp_path / 'out.ipynb').exists() and (tmp_path / 'out.part.ipynb').exists()


def test_a_full_disk_is_told_also_from_a_library_s_error(execute):
    with pytest.raises(DiskFull, match='OSError: .*the disk is full: free some space'):
        execute("raise OSError(28, 'No space left on device')")


def test_a_killed_kernel_is_told_in_words(execute):
    with pytest.raises(KitError, match='was killed, most likely because memory ran out'):
        execute('import os, signal; os.kill(os.getpid(), signal.SIGKILL)')


def test_a_process_of_several_leaves_its_error(execute, tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    (tmp_path / 'values.json').write_text('{}')
    with pytest.raises(SystemExit):
        execute_rank(tmp_path / 'none.ipynb', tmp_path / 'out.ipynb', tmp_path)
    assert 'none.ipynb does not exist' in (tmp_path / 'error-1').read_text()


@pytest.mark.parametrize('processes, batch, count', [(3, 16, 2), (4, 16, 4), (1, 16, 1)])
def test_processes_divide_the_global_batch(monkeypatch, processes, batch, count):
    monkeypatch.setenv('REPRODUCE_PROCESSES', str(processes))
    cfg = make_config(example_settings(global_batch=batch, device_batch=batch))
    assert process_count(cfg) == count


def test_a_kernel_shares_no_ports_with_another(execute, tmp_path):
    """Two that started at once were given one port, and the second died."""
    execute(
        'from ipykernel.kernelapp import IPKernelApp\n'
        'print(IPKernelApp.instance().transport, IPKernelApp.instance().connection_file)'
    )
    (printed,) = nbformat.read(tmp_path / 'out.ipynb', as_version=4).cells[-1].outputs
    transport, file = printed.text.split()
    assert transport == 'ipc'
    assert not Path(file).parent.exists()  # the folder of its sockets is gone with it
