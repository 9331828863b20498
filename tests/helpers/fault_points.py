"""Where a call can go wrong, and what can: the shared library `faults.c`, and how it is told."""

import ctypes
import errno
import random
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

SOURCE = Path(__file__).with_name('faults.c')
KILL, STOP, A_DAY_BACK, A_DAY_ON = range(1001, 1005)  # as in faults.c
NAMES = {KILL: 'SIGKILL', STOP: 'two at once', A_DAY_BACK: 'clock -1 day', A_DAY_ON: 'clock +1 day'}
CLOCKS = (A_DAY_BACK, A_DAY_ON)
FAULTS = dict(  # of each kind of call
    open=(errno.EIO, errno.EACCES),
    read=(errno.EIO, KILL),
    create=(errno.ENOSPC, errno.EACCES, KILL, *CLOCKS),
    write=(errno.ENOSPC, errno.EIO, KILL, *CLOCKS),
    fsync=(errno.EIO, errno.ENOSPC, KILL),
    rename=(errno.EIO, errno.ENOSPC, KILL, STOP, *CLOCKS),
    link=(errno.EIO, errno.ENOSPC, KILL, STOP),
    remove=(errno.EIO, KILL, STOP),
    mkdir=(errno.ENOSPC, errno.EACCES, KILL),
    fork=(errno.EAGAIN,),
)


def build(folder: Path) -> Path:
    """Compile the library that a process has to be started with, as `LD_PRELOAD`."""
    library = folder / 'faults.so'
    command = ['cc', '-O2', '-shared', '-fPIC', '-o', str(library), str(SOURCE), '-ldl']
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Point:
    """The nth call of a kind on a place, and what happens at it."""

    call: str
    place: str  # a path below the root; `*` for what is another one each time
    nth: int
    fault: int

    @property
    def name(self) -> str:
        return NAMES.get(self.fault) or errno.errorcode[self.fault]

    def __str__(self):
        return f'{self.name} at {self.call} {self.nth} of {self.place or "a process"}'


class Library:
    """The functions of the library in this process."""

    def __init__(self, root: Path):
        self.functions, self.root = ctypes.CDLL(None), str(root).encode()

    def watch(self, log: Path):
        self.functions.fault_watch(self.root, str(log).encode())

    def arm(self, point: Point):
        place = re.sub(r'([\[\]?])', r'\\\1', point.place).encode()
        self.functions.fault_arm(self.root, point.call.encode(), place, point.nth, point.fault)

    def go_on(self):
        """From now on the calls of this process and its children count."""
        self.functions.fault_go_on()

    def happened(self) -> bool:
        return bool(self.functions.fault_happened())

    def disarm(self):
        self.functions.fault_disarm()


def place_of(path: str) -> str:
    """A path without what differs from process to process."""
    path = re.sub(r'(?<=\.)\d+(?=\.part)', '*', path)
    path = re.sub(r'\.[\w-]+-\d+-\d+\.part', '.*.part', path)
    return re.sub(r'tfevents\..*', 'tfevents.*', path)


def all_points(log: Path) -> list:
    """Every fault at the calls of an undisturbed process: of each place the first, last, middle."""
    calls = defaultdict(int)
    for line in log.read_text().splitlines():
        call, _, path = line.partition(' ')
        calls[call, place_of(path)] += 1
    points = []
    for (call, place), count in calls.items():
        for nth in sorted({1, count, (count + 1) // 2}):
            points += [Point(call, place, nth, fault) for fault in FAULTS[call]]
    return points


def spread(points: list) -> list:
    """The same points in another order: all kinds of calls and faults in turn, all places soon."""
    groups = defaultdict(list)
    for point in points:
        groups[point.call, point.fault].append(point)
    orders = [evenly(group) for group in groups.values()]
    random.Random(12).shuffle(orders)
    return [point for turn in zip_longest(*orders) for point in turn if point]


def evenly(points: list) -> list:
    """The same points, neighbours far from each other: by the bits of their numbers, reversed."""
    bits = max(len(points) - 1, 1).bit_length()
    order = sorted(range(len(points)), key=lambda number: f'{number:0{bits}b}'[::-1])
    return [points[number] for number in order]
