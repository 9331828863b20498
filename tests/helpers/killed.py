"""Run configs while being killed: python killed.py BASE KILLS. Everything is imported once; each attempt is a fork that SIGKILL ends at a random moment."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

base, kills = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= dict(
    OMP_NUM_THREADS='1',
    REPRODUCE_RUNS=str(base / 'runs'),
    REPRODUCE_CACHE=str(base / 'cache'),
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
from tiny import hub, shrink

from reproduce_kit.store.run import run_folder


def fork(f) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        f()
        code = 0
    finally:
        os._exit(code)


def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def small(key, name):
    return shrink(
        ALL[key],
        name=name,
        test_sets=['mini', 'qa'],
        save_steps=1,
        train_pairs=6 * shrink(ALL[key]).global_batch - 2,
    )


rng, out = random.Random(12), {}
assert end(fork(lambda: hub(shrink(ALL['as-run/minilm-lion'])))) == 0
for key in ('as-run/modernbert-adamw', 'as-run/minilm-lion'):
    whole = small(key, 'whole')
    start = time.time()
    assert end(fork(lambda: go(whole))) == 0
    took = time.time() - start
    done, runs, where = 0, [], {}
    while done < kills or not (run_folder(runs[-1]) / 'done.json').exists():
        if not runs or (run_folder(runs[-1]) / 'done.json').exists():
            runs.append(small(key, f'cut{len(runs)}'))
        folder = run_folder(runs[-1])
        pid = fork(lambda: go(runs[-1]))
        if done < kills:
            time.sleep(rng.uniform(0.2, took))
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                assert os.waitstatus_to_exitcode(status) == 0, runs[-1].name
                continue
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += 1
            h = (
                (folder / 'history.jsonl').read_text().count('\n')
                if (folder / 'history.jsonl').exists()
                else 0
            )
            parts = [p.name for p in folder.rglob('*.part*')]
            place = (
                'before training'
                if not h
                else 'while a file was written'
                if parts
                else 'in evaluation'
                if list(folder.glob('epoch-*/model'))
                and len(list(folder.glob('epoch-*/model')))
                > len(list(folder.glob('epoch-*/metrics.json')))
                else 'in training'
            )
            where[place] = where.get(place, 0) + 1
        else:
            assert end(pid) == 0
    read = lambda c: [
        (run_folder(c) / f).read_bytes()
        for f in ('history.jsonl', *(f'epoch-{n}/model/model.safetensors' for n in (1, 2, 3)))
    ]
    same = [read(c) == read(whole) for c in runs]
    out[key] = dict(
        kills=done,
        runs=len(runs),
        identical=all(same),
        where=where,
        seconds_uninterrupted=round(took, 1),
    )
print(json.dumps(out))
