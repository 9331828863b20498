"""Let calls of commands go wrong: LD_PRELOAD=faults.so python faulted.py BASE SCENARIO:POINTS ...

Everything is imported once; each command is a fork. A part of a scenario's points are tried as
SCENARIO:FIRST-LAST. The last line of the output is JSON: what became of each point.
"""

import contextlib
import gc
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

BASE = Path(sys.argv[1]).resolve()
WORK, ANSWERS = BASE / 'files/work', BASE / 'answers'
os.environ |= dict(
    OMP_NUM_THREADS='1',
    TOKENIZERS_PARALLELISM='false',
    HF_HUB_OFFLINE='1',
    MPLBACKEND='agg',
    REPRODUCE_ROOT=str(WORK),
    **{f'REPRODUCE_{kind.upper()}': str(WORK / kind) for kind in ('runs', 'paper', 'figures')},
    REPRODUCE_CACHE=str(WORK / 'cache'),
    REPRODUCE_GIT='{"commit": "0", "dirty": false}',
)
TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / 'helpers')]
import conftest  # noqa: F401  the small hub's folder
import torch
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401
import yaml
from fault_points import Library, Point, all_points, spread
from invented import TINY, invented_collection
from papermill.engines import papermill_engines
from sentence_transformers import CrossEncoder

from reproduce_kit.cli.app import disk_error, main
from reproduce_kit.config.settings import example_settings
from reproduce_kit.core import KitError, sha256
from reproduce_kit.data.collection import write_collection
from reproduce_kit.engines.modal_files import OfferedFile, bring_home, safe_path
from reproduce_kit.publish.page_processes import import_modules_of
from reproduce_kit.publish.page_shell import PageEngine
from reproduce_kit.testing.fake_hub import fake_model
from reproduce_kit.testing.page_clone import LINKED

VOLUME = BASE / 'files/volume'
FETCHED = ('.json', '.jsonl', '.csv', '.run.gz', '.safetensors', '.ipynb')
NAMES = dict(study='mine', recipe='first', name='lion')
SECONDS = 120  # after which a command hangs


def make_clone(folder: Path):
    """A folder that is a clone to the kit, with one study of one run."""
    (folder / 'params/mine').mkdir(parents=True)
    for name in (*LINKED, 'params/smoke'):
        (folder / name).symlink_to(conftest.ROOT / name)
    write_collection(invented_collection(), folder / 'texts')
    settings = example_settings() | TINY | NAMES | dict(collection=str(WORK / 'texts'))
    (folder / 'params/mine/lion.yaml').write_text(yaml.safe_dump(settings))


@dataclass
class Scenario:
    """A command, the folder that it begins with, and the one that it leaves if all is well."""

    name: str
    words: str
    old: Path
    new: Path
    log: Path

    def begin(self):
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.copytree(self.old, WORK, symlinks=True)


# --- a fetch, from a volume that is a folder


class FolderVolume:
    """What of a volume a fetch asks for."""

    def read_file_into_fileobj(self, path, file):
        content = (VOLUME / path).read_bytes()
        for start in range(0, len(content), 2**16):
            file.write(content[start : start + 2**16])


def offered_files() -> list:
    """What Modal would list."""
    files = []
    for path in sorted(VOLUME.rglob('*')):
        name = path.relative_to(VOLUME).as_posix()
        if path.is_file() and not TEMPORARY.search(name) and name.endswith(FETCHED):
            target = safe_path(name, 'mine')
            files.append(OfferedFile(name, target, sha256(path), path.stat().st_size))
    return files


def fetch() -> int:
    """Bring the run home, as `reproduce fetch` does once Modal has listed the files."""
    try:
        bring_home(FolderVolume(), offered_files())
    except KitError as error:
        print(f'error: {error}')
    except OSError as error:
        print(f'error: {disk_error(error)}')  # as the command line does
    else:
        return 0
    return 1


# --- a command, as a child


def call(words: str, output: Path, prepare=lambda: None, after=lambda: None) -> int:
    """Start a command in a child, in a process group of its own; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        with open(output, 'w') as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(WORK)
        prepare()
        code = fetch() if words == 'fetch' else main(words.split(), standalone_mode=False) or 0
        after()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def write_modules():
    """Write down what this child has imported."""
    (ANSWERS / 'modules').write_text('\n'.join(sys.modules))


def import_modules():
    """Import what a child has imported, so that the next one need not."""
    for name in (ANSWERS / 'modules').read_text().split():
        with contextlib.suppress(Exception):
            import_module(name)


def look(pid: int, seconds: float = SECONDS) -> int | str:
    """Wait for a child; its exit code, -N for a signal, 'stopped', or 'slow'."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended:
            return 'stopped' if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return 'slow'


def finish(pid: int, seconds: float = SECONDS) -> int:
    code = look(pid, seconds)
    if code == 'slow':
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return code


# --- what a folder may hold

TEMPORARY = re.compile(
    r'(^|/)\.[^/]+\.part(/|$)|\.part\.ipynb$|(^|/)\.[^/]*lock$'
    r'|(^|/)checkpoint-\d+/|(^|/)\.writable$'
)
OF_AN_ATTEMPT = re.compile(
    r'(^|/)(manifest|done|failed)\.json$|(^|/)(events|telemetry)\.jsonl$|(^|/)train\.ipynb$'
    r'|/tensorboard/|/\.leases/|/analysis/|/attempts/|(^|/)cache/'
)


def contents(folder: Path) -> dict:
    """{path: bytes} of all files that are no links and not temporary."""
    found = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            key = path.relative_to(folder).as_posix()
            if not path.is_symlink() and not TEMPORARY.search(key):
                found[key] = path.read_bytes()
    return found


def unreadable(key: str, content: bytes) -> str:
    """Why a file cannot be read; '' if it can."""
    try:
        if key.endswith(('.json', '.ipynb')):
            json.loads(content)
        elif key.endswith('.jsonl'):
            lines = content.splitlines(keepends=True)
            for line in lines if key.endswith('top.jsonl') else lines[:-1]:
                if not key.endswith('events.jsonl'):  # which begins a new line after a torn one
                    json.loads(line)
        elif key.endswith('.gz'):
            gzip.decompress(content)
    except Exception as error:
        return f'{key}: {type(error).__name__} {error}'
    return ''


def same(key: str, one: bytes, two: bytes) -> bool:
    """Whether two files say the same; of a history, the shorter is the beginning of the longer."""
    if key.endswith('history.jsonl'):
        return two.startswith(one.rpartition(b'\n')[0])
    return one == two


def unvouched(key: str, found: dict) -> list:
    """Files of a finished run that are not those that its `done.json` names."""
    problems = []
    for number, epoch in json.loads(found[key])['epochs'].items():
        for name, digest in epoch['files'].items():
            file = f'{key.removesuffix("done.json")}epoch-{number}/{name}'
            if hashlib.sha256(found.get(file, b'')).hexdigest() != digest:
                problems.append(f'{file}: not what done.json says')
    return problems


def third_state(scenario: Scenario, found: dict, old: dict, new: dict) -> list:
    """What is neither as before nor as after the command."""
    problems = [reason for key, value in found.items() if (reason := unreadable(key, value))]
    for key, value in found.items():
        if OF_AN_ATTEMPT.search(key):
            continue
        if key not in new and key not in old:
            problems.append(f'{key}: nobody knows it')
        elif not any(key in side and same(key, value, side[key]) for side in (old, new)):
            problems.append(f'{key}: neither the old nor the new one')
    # what ended otherwise elsewhere is open until it has arrived
    kept = [key for key in old if not key.endswith('done.json')]
    problems += [f'{key}: lost' for key in kept if key not in found and key in new]
    for key in found:
        if key.endswith('done.json'):
            problems += unvouched(key, found)
        if key.endswith('done.json') and key not in old:
            folder = key.removesuffix('done.json')
            needed = [k for k in new if k.startswith(folder) and not OF_AN_ATTEMPT.search(k)]
            problems += [f'{k}: missing, and the run is done' for k in needed if k not in found]
    return problems


def is_new(found: dict, new: dict) -> bool:
    """Whether all that the command makes is there."""
    return all(key in found for key in new if not OF_AN_ATTEMPT.search(key) or 'done.json' in key)


def differences(found: dict, new: dict) -> list:
    """What a folder lacks of another, or has otherwise, but for what belongs to an attempt."""
    keys = [key for key in new if not OF_AN_ATTEMPT.search(key)]
    return [key for key in keys if found.get(key) != new[key]]


# --- a point


@dataclass
class Outcome:
    """What became of a point."""

    scenario: str
    point: str
    fault: str
    call: str
    state: str  # old, new, third
    code: int | str
    message: str
    problems: list


def both(scenario: Scenario, pid: int) -> int | str:
    """A second process begins while the first one is stopped."""
    second = call(scenario.words, ANSWERS / 'second')
    code = look(second, 8)
    os.killpg(pid, signal.SIGCONT)
    if code == 'slow':
        code = finish(second)
    answer = (ANSWERS / 'second').read_text()
    if 'Traceback' in answer or (code and 'another process' not in answer):
        return f'second: {code} {answer[-600:]}'
    code = finish(pid)
    answer = (ANSWERS / 'first').read_text()
    return f'first: {code} {answer[-600:]}' if code and 'another process' not in answer else code


def try_point(scenario: Scenario, point: Point, old: dict, new: dict) -> Outcome | None:
    """Begin, let the point go wrong, look, run again and compare; None if it was not reached."""
    scenario.begin()
    library, output = Library(BASE / 'files'), ANSWERS / 'first'
    library.arm(point)  # here, so that it can be asked whether it happened
    pid = call(scenario.words, output, library.go_on)
    code = look(pid)
    if code == 'stopped':
        code = both(scenario, pid)
    elif code == 'slow':
        finish(pid, 0)
    happened = library.happened()
    library.disarm()
    if not happened:
        return None
    answer, found = output.read_text(), contents(WORK)
    problems = third_state(scenario, found, old, new)
    state = 'third' if problems else 'new' if is_new(found, new) else 'old'
    problems += wrong_answer(code, answer, state)
    again = finish(call(scenario.words, ANSWERS / 'again'))
    if again != 0:
        problems.append(f'again: {again} {(ANSWERS / "again").read_text()[-900:]}')
    else:
        after = contents(WORK)
        problems += [f'{key}: not that of an undisturbed run' for key in differences(after, new)]
    said = [line for line in answer.splitlines() if 'error: ' in line or 'failed: ' in line]
    facts = str(point), point.name, point.call, state, code, (said or [''])[0][:400], problems
    return Outcome(scenario.name, *facts)


def wrong_answer(code: int | str, answer: str, state: str) -> list:
    """What is wrong with how a command ended."""
    if not isinstance(code, int):
        return [f'it ended as: {code}']
    if 'Traceback' in answer:
        return [f'a traceback: {answer[-900:]}']
    if '[Errno' in answer and not re.search(r'whole traceback is in|cannot be loaded: ', answer):
        return [f'no sentence: {answer[-400:]}']
    if code == 0 and state == 'old':
        return ['it says that all is well, and is not done']
    if code > 0 and not re.search(r'error: |failed: ', answer):
        return [f'it ended with {code} and no reason: {answer[-300:]}']
    return []


# --- all points

COMMANDS = dict(  # all but the first begin with what the first leaves
    run='run params/mine',
    evaluate='evaluate params/mine/lion.yaml --epoch 1 --set more',
    tables='tables --study mine',
    report='report mine',
    fetch='fetch',
    refetch='fetch',  # the run is here, and is another one there
)


def undisturbed(scenario: Scenario):
    """Run a command in peace, note its calls, and keep what it leaves."""
    scenario.begin()
    library, start = Library(BASE / 'files'), time.time()

    def watch():
        library.watch(scenario.log)

    code = finish(call(scenario.words, ANSWERS / scenario.name, watch, write_modules))
    assert code == 0, (ANSWERS / scenario.name).read_text()
    import_modules()
    shutil.copytree(WORK, scenario.new, symlinks=True)
    print(f'{scenario.name}: {time.time() - start:.1f} s undisturbed', flush=True)


def make_volume(finished: Path):
    """A volume with the run as another machine would have made it."""
    shutil.copytree(finished / 'runs', VOLUME)
    shutil.rmtree(VOLUME / '.leases')
    (done,) = VOLUME.rglob('done.json')
    content = json.loads(done.read_text())
    for path in done.parent.glob('epoch-*/perquery.csv'):
        path.write_text(path.read_text().replace(',1\n', ',0.5\n'))
        files = content['epochs'][path.parent.name[-1]]['files']
        files['perquery.csv'] = sha256(path)
    done.write_text(json.dumps(content))


def make_scenarios(names) -> list:
    """Run the commands undisturbed, one after the other."""
    old, scenarios = BASE / 'old-run', []
    for name, words in COMMANDS.items():
        begin = BASE / 'old-run' if name == 'fetch' else old
        scenario = Scenario(name, words, begin, BASE / f'new-{name}', BASE / f'{name}.log')
        if name in names or name == 'run':
            undisturbed(scenario)
        if name in names:
            scenarios.append(scenario)
        if name == 'run':
            old = scenario.new
            make_volume(old)
    return scenarios


def try_all(scenario: Scenario, first: int, last: int) -> list:
    """Try the points with these numbers, from 1; those that are not reached are left out."""
    gc.freeze()  # what is copied at a fork stays shared
    old, new = contents(scenario.old), contents(scenario.new)
    outcomes = []
    for point in spread(all_points(scenario.log))[first - 1 : last]:
        outcome = try_point(scenario, point, old, new)
        if outcome:
            outcomes.append(outcome)
            print(f'{outcome.scenario}: {point}: {outcome.state}, {outcome.code}', flush=True)
            for problem in outcome.problems:
                print(f'    {problem}', flush=True)
    return outcomes


def numbers(text: str) -> tuple:  # (first, last)
    """The points that an argument asks for."""
    first, _, last = text.rpartition('-')
    return int(first or 1), int(last)


if __name__ == '__main__':
    asked = {
        name: numbers(text) for name, _, text in (word.partition(':') for word in sys.argv[2:])
    }
    BASE.mkdir(exist_ok=True, parents=True)
    ANSWERS.mkdir()
    make_clone(BASE / 'old-run')
    shutil.copytree(BASE / 'old-run', WORK, symlinks=True)
    fake_model('tiny-bert')
    torch.set_num_threads(1)
    papermill_engines.register(None, PageEngine)  # in this process, instead of a kernel
    CrossEncoder._create_model_card = lambda *_: None  # a third of the time; no part of a model
    pages = 'analysis/*.ipynb' if {'tables', 'report'} & set(asked) else 'experiments/train.ipynb'
    import_modules_of((conftest.ROOT / 'nbs').glob(pages))
    outcomes = []
    for scenario in make_scenarios(asked):
        start = time.time()
        outcomes += try_all(scenario, *asked[scenario.name])
        print(f'{scenario.name}: {time.time() - start:.0f} s', flush=True)
    print(json.dumps([vars(outcome) for outcome in outcomes]))
