"""A SLURM cluster of one node on this machine's loopback, as long as a test needs it.

Real programs from Debian (`make slurm` installs them): munged, slurmctld and slurmd. They run as
root, listen on 127.0.0.1 only, and keep everything in a folder of the test's own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ('munged', 'mungekey', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scontrol', 'scancel')

CONF = """\
ClusterName=kit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=5,bf_interval=5
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=15
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> str:
    """Why there can be no cluster here, or nothing."""
    missing = [program for program in PROGRAMS if not program_path(program)]
    if missing:
        return f'{", ".join(missing)} not found; `make slurm` installs SLURM where apt is allowed'
    return '' if os.geteuid() == 0 else 'slurmd needs root'


def program_path(program: str) -> str | None:
    return shutil.which(program, path=f'{os.environ["PATH"]}:/usr/sbin:/sbin')


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


class Cluster:
    """A running cluster; `env` lets the commands find it."""

    def __init__(self, folder: Path, cpus: int):
        self.folder, self.processes = folder, []
        for name in ('state', 'spool', 'cgroup'):
            (folder / name).mkdir()
        ports = dict(controller_port=free_port(), node_port=free_port())
        host = socket.gethostname().split('.')[0]
        text = CONF.format(folder=folder, host=host, cpus=cpus, **ports)
        (folder / 'slurm.conf').write_text(text)
        (folder / 'cgroup.conf').write_text(
            f'CgroupPlugin=cgroup/v1\nCgroupMountpoint={folder}/cgroup\n'
        )
        self.env = dict(SLURM_CONF=str(folder / 'slurm.conf'))

    def start(self):
        key = self.folder / 'munge.key'
        subprocess.run([program_path('mungekey'), '-c', '-k', key], check=True)
        paths = [f'--{what}={self.folder}/munge.{what[:4]}' for what in ('seed-file', 'log-file')]
        self._start(
            'munged',
            *('--foreground', '--force', f'--key-file={key}', *paths),
            f'--socket={self.folder}/munge.socket',
            f'--pid-file={self.folder}/munge.pid',
        )
        self._start('slurmctld', '-D')
        self._start('slurmd', '-D')
        self._wait_for_the_node()

    def _start(self, program: str, *arguments):
        with open(self.folder / f'{program}.out', 'w') as output:
            process = subprocess.Popen(
                [program_path(program), *map(str, arguments)],
                env=os.environ | self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)

    def _wait_for_the_node(self, seconds: float = 60):
        deadline = time.time() + seconds
        while self.ask('sinfo', '--noheader', '--format=%t') != 'idle':
            assert time.time() < deadline, self.logs()
            time.sleep(0.3)

    def ask(self, *command) -> str:
        """What a command prints; its errors are no matter here."""
        process = subprocess.run(
            [str(word) for word in command],
            env=os.environ | self.env,
            capture_output=True,
            text=True,
        )
        return process.stdout.strip()

    def logs(self) -> str:
        files = [*self.folder.glob('*.out'), *self.folder.glob('*.log')]
        return '\n'.join(f'{path.name}:\n{path.read_text()[-1500:]}' for path in files)

    def close(self):
        """End all jobs, then the programs that this object started."""
        self.ask('scancel', '--user=root')
        deadline = time.time() + 25
        while self.ask('squeue', '--noheader') and time.time() < deadline:
            time.sleep(0.3)
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cluster(folder: Path, cpus: int):
    """Run a cluster for a block."""
    running = Cluster(folder, cpus)
    try:
        running.start()
        yield running
    finally:
        running.close()
