"""What several tests need: the smoke config, a command line, real data or a reason to skip."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import DATA, ROOT
from reproduce_kit.config import example

SMOKE = example()


def write_yaml(folder: Path, name: str, **changes) -> Path:
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump(SMOKE | dict(name=name) | changes, sort_keys=False))
    return path


def reproduce(*args, env=None, cwd=ROOT, timeout=900):
    """The console script, as a user types it."""
    return subprocess.run([str(Path(sys.executable).parent / 'reproduce'), *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                          env=os.environ | {k: str(v) for k, v in (env or {}).items()})


def run_dir(runs: Path, name: str) -> Path:
    (found,) = runs.glob(f'smoke/smoke/{name}-*')
    return found


def metrics(folder: Path) -> dict:
    return {n: e['means'] for n, e in json.loads((folder / 'done.json').read_text())['epochs'].items()}


def need(*parts) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists(): pytest.skip(f'real data absent: {"/".join(parts)} is not in ../shared/data beside this clone')
    return path


def invent(cfg, values, texts=None, seconds=10.):
    """A finished run as training leaves it, with per-topic values of our choosing: {epoch: {test set: frame}}; the first stage is half of the first epoch's. `texts`: {test set: EvalSet}, when its rankings are to be read."""
    from reproduce_kit.metrics import means
    from reproduce_kit.plan import _CLASS, parameters, planned_rate
    from reproduce_kit.rerank import _keep
    from reproduce_kit.store import finish, open_run
    run = open_run(cfg); sets = list(cfg.test_sets)

    def write(folder, rows, **more):
        ranked = {s: {q: {f'd{i}': 1. / (1 + (i + len(cfg.name)) % 3) for i in range(3)} for q in next(iter(rows.values())).index} for s in sets}
        _keep(folder, texts or {}, ranked, rows, 'invented', means={n: means(r) for n, r in rows.items()} if more.get('ranked_by') else {s: means(r) for s, r in zip(sets, rows.values())}, **more)
    write(run.folder/'first-stage', {f'{who}/{s}': values[1][s] * share for who, share in (('BM25', .5), ('ceiling', 1.)) for s in sets}, ranked_by={s: 'BM25' for s in sets})
    for n in range(1, cfg.epochs + 1): write(run.epoch(n), {f'{cfg.name}/{s}': values[n][s] for s in sets}, epoch=n, selection=None)
    groups = [dict(betas=[cfg.beta1, cfg.beta2], weight_decay=w, tensors=1) for w in ([cfg.weight_decay] + ([0.] if cfg.decay_on == 'matrices' else []))]
    size = parameters(cfg.backbone, cfg.layers)
    run.note(updates=dict(planned=cfg.updates, done=cfg.updates), seconds=dict(train=seconds, evaluate=seconds), data=dict.fromkeys(sets, 'same'), optimizer=dict(kind=_CLASS[cfg.optimizer][0], groups=groups),
             memory=dict(optimizer_state_bytes=4 * size['total'] * (1 if cfg.optimizer == 'lion' else 2), parameters=size))
    each = cfg.epoch_updates; steps = sorted({*range(cfg.log_steps, cfg.updates + 1, cfg.log_steps)} | {e * each for e in range(1, cfg.epochs + 1)})
    lines = [dict(step=s, epoch=s / each, loss=.5, grad_norm=1., learning_rate=planned_rate(cfg, s - 1)) for s in steps]
    lines += [dict(step=each * e, epoch=float(e), eval_loss=.5) for e in range(1, cfg.epochs + 1)]; lines.sort(key=lambda l: l['step'])
    (run.folder/'history.jsonl').write_text(''.join(json.dumps(l) + '\n' for l in lines)); (run.folder/'telemetry.jsonl').write_text('')
    (run.folder/'train.ipynb').write_text('{}')
    finish(run, {n: json.loads((run.epoch(n)/'metrics.json').read_text()) for n in range(1, cfg.epochs + 1)})
    return run
