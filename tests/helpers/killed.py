"""Train configs while killing them: python killed.py BASE KILLS.

Everything is imported once; each attempt is a fork that SIGKILL ends at a random moment. The last
line of the output is JSON: for each config, whether all runs equal an uninterrupted one.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

BASE, KILLS = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= dict(
    OMP_NUM_THREADS='1',
    REPRODUCE_RUNS=str(BASE / 'runs'),
    REPRODUCE_CACHE=str(BASE / 'cache'),
    TOKENIZERS_PARALLELISM='false',
    HF_HUB_OFFLINE='1',
)
TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / 'helpers'), str(TESTS / 'end_to_end')]
import conftest  # noqa: F401  the small hub's folder
import sentence_transformers.cross_encoder  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401
from test_recipes import ALL, go
from tiny import TREC_DL, hub, shrink

from reproduce_kit.store.run import run_folder

ONCE = ['dl19'] if TREC_DL.exists() else []  # test sets for the selected epoch
KEYS = ('as-run/modernbert-adamw', 'as-run/minilm-lion')


def fork(function, *args) -> int:
    """Call a function in a child process without its output; return the child's id."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        function(*args)
        code = 0
    finally:
        os._exit(code)


def wait(pid):
    """Wait for a child, which must succeed."""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def kill_after(pid, seconds) -> bool:
    """Kill a child after a while; False if it had ended by then, which must have been a success."""
    time.sleep(seconds)
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        assert os.waitstatus_to_exitcode(status) == 0
        return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def small(key, name):
    cfg = shrink(ALL[key])
    return shrink(
        ALL[key],
        name=name,
        test_sets=['mini', 'qa'],
        final_test_sets=ONCE,
        save_steps=1,
        train_pairs=6 * cfg.global_batch - 2,
    )


def is_done(cfg) -> bool:
    return (run_folder(cfg) / 'done.json').exists()


def kill_place(folder) -> str:
    """Where in its course a run was killed, judged by its files."""
    history = folder / 'history.jsonl'
    if not history.exists() or not history.read_text():
        return 'before training'
    if any(folder.rglob('*.part*')):
        return 'while a file was written'
    models, measured = (
        len(list(folder.glob(f'epoch-*/{name}'))) for name in ('model', 'metrics.json')
    )
    return 'in evaluation' if models > measured else 'in training'


def results(cfg) -> list:
    names = ['history.jsonl', *(f'epoch-{n}/model/model.safetensors' for n in (1, 2, 3))]
    folder = run_folder(cfg)
    once = sorted(folder.glob('epoch-*/also-*/perquery.csv'))
    assert len(once) == len(ONCE)
    return [path.read_bytes() for path in (*(folder / name for name in names), *once)]


def compare(key, moments) -> dict:
    """Train a config once in peace, then again and again until it was killed often enough."""
    whole = small(key, 'whole')
    start = time.time()
    wait(fork(go, whole))
    seconds = time.time() - start
    cut, places = [], Counter()
    while places.total() < KILLS or not is_done(cut[-1]):
        if not cut or is_done(cut[-1]):
            cut.append(small(key, f'cut{len(cut)}'))
        pid = fork(go, cut[-1])
        if places.total() == KILLS:
            wait(pid)
        elif kill_after(pid, moments.uniform(0.2, seconds)):
            places[kill_place(run_folder(cut[-1]))] += 1
    return dict(
        kills=places.total(),
        runs=len(cut),
        identical=all(results(cfg) == results(whole) for cfg in cut),
        where=dict(places),
        seconds_uninterrupted=round(seconds, 1),
    )


if __name__ == '__main__':
    moments = random.Random(12)
    wait(fork(lambda: hub(shrink(ALL['as-run/minilm-lion']))))
    print(json.dumps({key: compare(key, moments) for key in KEYS}))
