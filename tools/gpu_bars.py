"""Measure on this machine's GPU, in at most nine minutes (`make gpu-bars`).

The machine needs Python 3.12, torch, transformers and sentence-transformers, and no network. The
few pure packages of `tools/gpu_wheels.txt` that it lacks come as wheels (`make gpu-wheels`).

Each part is a process with a time limit. It adds a line to the CSV file for each number, at once,
so a part that dies or runs over its limit loses nothing else; a line says what became of it."""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # on a bare machine the kit is not installed
os.environ.setdefault('REPRODUCE_ROOT', str(ROOT))

from gpu_parts import FULL, MEASURES, TINY, Part, Sizes, parts_of

from reproduce_kit.core import KitError, artifact_dir
from reproduce_kit.speed.gpu_bars import (
    Bar,
    BarMachine,
    append_bar,
    bars_folder,
    read_bars,
    this_machine,
)

TOTAL_SECONDS = 530  # for everything
LEAST_SECONDS = 15  # that a part is started with
SHARE_MEASURED = 0.7  # of what is left when a part is ready; the rest is for what it cannot foresee
WHEELS = ROOT / '.gpu-wheels'


def missing_packages() -> list:  # of (name, version)
    """Return what `gpu_wheels.txt` names and this machine lacks."""
    lines = (ROOT / 'tools/gpu_wheels.txt').read_text().splitlines()
    wanted = [line.partition('==')[::2] for line in lines if '==' in line]
    missing = []
    for name, number in wanted:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append((name, number))
    return missing


MOST_WHEEL_MIB = 100  # unpacked; the largest of the pure ones has 30


def unpack_wheels(missing: list, wheels: Path, site: Path):
    """Unpack the wheels of missing packages: a pure wheel is a package in a zip file."""
    for name, number in missing:
        pattern = f'{name.replace("-", "_")}-{number}-*-none-any.whl'
        wheel = next(wheels.glob(pattern), None)
        if wheel is None:
            raise KitError(
                f'{name} {number} is not installed, and {wheels.name}/ has no wheel of it; '
                'run `make gpu-wheels` on a machine with a network and bring the folder here'
            )
        with zipfile.ZipFile(wheel) as archive:
            size = sum(member.file_size for member in archive.infolist()) >> 20
            if size > MOST_WHEEL_MIB:
                raise KitError(f'{wheel.name} unpacks to {size:,} MiB; no pure wheel does')
            archive.extractall(site)


def prepare_environment(site: Path, is_rehearsal: bool):
    """Let this process and its children see one GPU, no network, and the unpacked wheels."""
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')
    os.environ['HF_HUB_OFFLINE'] = '1'
    if is_rehearsal:
        os.environ.update(CUDA_VISIBLE_DEVICES='')
        os.environ.setdefault('TRITON_INTERPRET', '1')
    sys.path.append(str(site))


def end_group(process):
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _run_in_group(log: str, function, arguments: tuple):
    """Call a function as the first of a group of processes, its output in a file."""
    os.setsid()
    file = open(log, 'a', buffering=1)  # noqa: SIM115  until the process ends
    sys.stdout = sys.stderr = file
    for descriptor in (1, 2):  # of what is not Python
        os.dup2(file.fileno(), descriptor)
    multiprocessing.set_start_method('fork', force=True)  # of data loaders, as in a run
    function(*arguments)


def run_limited(context, seconds: float, function, *arguments) -> tuple:  # (output, problem)
    """Call a function in a process of its own; the problem is '' if it ended well in time."""
    with tempfile.NamedTemporaryFile('r') as log:
        process = context.Process(target=_run_in_group, args=(log.name, function, arguments))
        process.start()
        try:
            process.join(seconds)
            is_over = process.is_alive()
        finally:
            end_group(process)
        text = log.read()
    if is_over:
        return text, f'over its limit of {seconds:.0f} s'
    last = (text.strip().splitlines() or [''])[-1]
    return text, f'exit {process.exitcode}: {last[:200]}' if process.exitcode else ''


def measure_part(part: Part, csv: Path, until: float, sizes: Sizes):
    """Measure a part in this process."""

    def left() -> float:
        return min(sizes.seconds, SHARE_MEASURED * (until - time.time()))

    machine = this_machine()
    for bar in MEASURES[part.name](part.backbone, sizes, left):
        append_bar(csv, bar, machine)


@dataclass(frozen=True)
class Session:
    """What all parts of a call share."""

    context: multiprocessing.context.BaseContext
    csv: Path
    machine: BarMachine
    sizes: Sizes
    end: float  # as `time.time` tells it


def measure_all(parts: list, session: Session) -> int:
    """Run all parts, one after the other; return how many have a problem."""
    problems = 0
    for part in parts:
        start = time.time()
        seconds = min(part.seconds, session.end - start)
        if seconds < LEAST_SECONDS:
            text, problem = '', 'no time left'
        else:
            work = (part, session.csv, start + seconds, session.sizes)
            text, problem = run_limited(session.context, seconds, measure_part, *work)
        print(f'{part}: {time.time() - start:.0f} s {problem}'.rstrip(), flush=True)
        if problem:
            problems += 1
            print(text[-2000:], file=sys.stderr, flush=True)
            append_bar(
                session.csv, Bar(part.name, '', part.backbone, problem=problem), session.machine
            )
    return problems


def print_machine():
    """Print what `find_machine` reads."""
    print(json.dumps(asdict(this_machine())))


def find_machine(context, is_rehearsal: bool) -> BarMachine:
    """Describe the machine, in a process of its own: this one must not hold the GPU."""
    text, problem = run_limited(context, 120, print_machine)
    if problem:
        raise KitError(f'torch does not start here ({problem}); nothing was measured')
    machine = BarMachine(**json.loads(text.strip().splitlines()[-1]))
    if not machine.gpu and not is_rehearsal:
        raise KitError(
            'torch sees no GPU here; measure on a machine with one, '
            'or try all parts in tiny sizes: python tools/gpu_bars.py --rehearse'
        )
    return machine


def start_context(is_rehearsal: bool):
    """Return how processes start: afresh for a GPU; for a rehearsal with all libraries loaded."""
    if not is_rehearsal:
        return multiprocessing.get_context('spawn')
    for library in ('datasets', 'sentence_transformers', 'transformers.trainer'):
        importlib.import_module(library)
    return multiprocessing.get_context('fork')


def print_bars(lines: list):
    """Print what was measured, a line each."""
    for line in lines:
        bar = line.bar
        words = [bar.part, bar.backbone, bar.side, bar.precision, bar.case, bar.problem]
        numbers = dict(ratio=bar.ratio, of_limit=bar.of_limit, error=bar.error)
        numbers |= dict(peak_gib=bar.peak_gib, state_mib=bar.state_mib)
        if bar.per_second:
            words.append(f'{bar.per_second:.5g} {bar.unit}/s')
        words += [f'{name} {value:.3g}' for name, value in numbers.items() if value is not None]
        print(' | '.join(filter(None, words)))


def arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--csv', type=Path, help='the file that gets the lines')
    parser.add_argument('--rehearse', action='store_true', help='tiny sizes, on the processor')
    parser.add_argument('--wheels', type=Path, default=WHEELS, help='folder of `make gpu-wheels`')
    return parser.parse_args()


def main(options):
    """Check everything, run all parts, print the lines; return the exit status."""
    end = time.time() + TOTAL_SECONDS
    cache = artifact_dir('cache') / 'gpu-bars'
    usual = cache / 'rehearsal.csv' if options.rehearse else bars_folder() / 'bars.csv'
    csv = (options.csv or usual).resolve()
    before = len(read_bars(csv)) if csv.exists() else 0
    site = cache / 'site'
    unpack_wheels(missing_packages(), options.wheels, site)
    prepare_environment(site, options.rehearse)
    context = start_context(options.rehearse)
    machine = find_machine(context, options.rehearse)
    print(f'{machine.gpu or "no GPU"}, torch {machine.torch}, {machine.date}', flush=True)
    sizes = TINY if options.rehearse else FULL
    problems = measure_all(parts_of(sizes), Session(context, csv, machine, sizes, end))
    print_bars(read_bars(csv)[before:] if csv.exists() else [])
    print(f'wrote {csv}')
    return 1 if problems else 0


if __name__ == '__main__':
    try:
        sys.exit(main(arguments()))
    except KitError as error:
        sys.exit(f'gpu-bars: {error}')
    except KeyboardInterrupt:
        sys.exit('gpu-bars: stopped; the file has what was measured before')
