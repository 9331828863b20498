"""A stand-in for Modal on 127.0.0.1.

Modal's real client, command line and container program talk to it over the real protocol. Only the
other end is ours: names and ids, an image that is this virtual environment with the uploaded files
laid over it, volumes whose writes are invisible until they are committed, machines that are
processes, time limits, retries, and machines that are taken away.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cbor2
from aiohttp import web
from grpclib import GRPCError, Status
from grpclib.server import Server
from loopback_machines import Call, Machines
from loopback_protocol import rpc
from loopback_volumes import Volumes
from modal._utils.grpc_testing import patch_mock_servicer
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

Result = api.GenericResult
TOKEN = 'ak-good'
BUILDER = '2025.06'


@dataclass(eq=False)
class Fault:
    """What happens to the machine of a config, once."""

    kind: str  # 'preempt', 'vanish', 'timeout', or 'full': the volume of runs is full from then on
    is_due: Callable[[], bool]


class Workspace:
    """Log-in, names, secrets, tables of keys and the bill."""

    def id(self, kind: str, name=None) -> str:
        """The id of a named thing, or a new one."""
        if name is not None and (kind, name) in self.names:
            return self.names[kind, name]
        self.count[kind] = self.count.get(kind, 0) + 1
        new = f'{kind}-{self.count[kind]:06d}'
        if name is not None:
            self.names[kind, name] = new
        return new

    def name_of_id(self, wanted: str) -> str:
        return next(name for (_, name), known in self.names.items() if known == wanted)

    @rpc
    def ClientHello(self, request, stream):
        if stream.metadata.get('x-modal-token-id', TOKEN) != TOKEN:
            raise GRPCError(Status.UNAUTHENTICATED, 'Token ID is invalid')
        return api.ClientHelloResponse()

    @rpc
    def AuthTokenGet(self, request):
        return api.AuthTokenGetResponse(token='x.eyJleHAiOjk5OTk5OTk5OTl9.x')

    @rpc
    def EnvironmentGetOrCreate(self, request):
        settings = api.EnvironmentSettings(image_builder_version=BUILDER)
        metadata = api.EnvironmentMetadata(name='main', settings=settings)
        return api.EnvironmentGetOrCreateResponse(environment_id='en-1', metadata=metadata)

    @rpc
    def WorkspaceNameLookup(self, request):
        return api.WorkspaceNameLookupResponse(workspace_name='tests', username='tests')

    async def WorkspaceBillingReport(self, stream):
        request = await stream.recv_message()
        if self.report is None:
            raise GRPCError(Status.PERMISSION_DENIED, 'billing reports need a Team plan')
        for name, cost in self.report:
            item = api.WorkspaceBillingReportItem(
                object_id='ap-000001',
                description=name,
                environment_name='main',
                interval=request.start_timestamp,
                cost=cost,
            )
            await stream.send_message(item)

    @rpc
    def SecretGetOrCreate(self, request):
        name = request.deployment_name
        keys = self.secrets.get(name)
        if keys is None:
            message = f"Secret '{name}' not found in environment 'main'"
            raise GRPCError(Status.NOT_FOUND, message)
        missing = [key for key in request.required_keys if key not in keys]
        if missing:
            message = f"Secret '{name}' is missing key(s) {', '.join(missing)}"
            raise GRPCError(Status.NOT_FOUND, message)
        return api.SecretGetOrCreateResponse(secret_id=self.id('st', name))

    @rpc
    def DictGetOrCreate(self, request):
        dict_id = self.id('di', request.deployment_name)
        self.dicts.setdefault(dict_id, {})
        metadata = api.DictMetadata(name=request.deployment_name)
        return api.DictGetOrCreateResponse(dict_id=dict_id, metadata=metadata)

    @rpc
    def DictGet(self, request):
        value = self.dicts[request.dict_id].get(request.key)
        return api.DictGetResponse(found=value is not None, value=value)

    @rpc
    def DictUpdate(self, request):
        table = self.dicts[request.dict_id]
        is_there = any(entry.key in table for entry in request.updates)
        is_put = not (request.if_not_exists and is_there)
        if is_put:
            table |= {entry.key: entry.value for entry in request.updates}
        return api.DictUpdateResponse(created=is_put)


class Apps:
    """Apps, images, uploaded files and functions: what a deployment asks for."""

    def definition(self, function: str):
        """What was asked for a function; of several GPUs, with the first one."""
        request = self.functions[function]
        if request.HasField('function_data'):
            return request.function_data.ranked_functions[0].function
        return request.function

    def app_of(self, function: str) -> str:
        return self.functions[function].app_id

    def handle_of(self, function: str):
        definition = self.definition(function)
        return api.FunctionHandleMetadata(
            function_name=definition.function_name,
            function_type=definition.function_type,
            app_id=self.app_of(function),
            supported_input_formats=definition.supported_input_formats,
            supported_output_formats=definition.supported_output_formats,
        )

    def _data_of(self, function: str):
        request = self.functions[function]
        if request.HasField('function_data'):
            return request.function_data
        only = api.FunctionData.RankedFunction(rank=0, function=request.function)
        return api.FunctionData(ranked_functions=[only])

    def commands(self, image_id) -> list:
        """All of an image's Dockerfile lines, and those of files that it copies, base first."""
        image = self.images[image_id]
        lines = [line for base in image.base_images for line in self.commands(base.image_id)]
        copied = [file.data.decode().splitlines() for file in image.context_files]
        return [*lines, *image.dockerfile_commands, *itertools.chain(*copied)]

    @rpc
    def AppCreate(self, request):
        app_id = self.id('ap')
        self.apps[app_id] = {}
        return api.AppCreateResponse(app_id=app_id)

    @rpc
    def AppGetByDeploymentName(self, request):
        app_id = self.names.get(('ap', request.name), '')
        return api.AppGetByDeploymentNameResponse(app_id=app_id, environment_name='main')

    @rpc
    def AppGetLayout(self, request):
        layout = api.AppLayout(function_ids=self.apps[request.app_id])
        return api.AppGetLayoutResponse(app_layout=layout)

    @rpc
    def AppHeartbeat(self, request):
        pass

    @rpc
    def AppClientDisconnect(self, request):
        self.gone.add(request.app_id)

    @rpc
    async def AppGetLogs(self, request):
        while request.app_id not in self.gone:
            await asyncio.sleep(0.2)
        return api.TaskLogsBatch(app_done=True)

    @rpc
    def AppPublish(self, request):
        self.apps[request.app_id] = dict(request.function_ids)
        if request.name:
            self.names['ap', request.name] = request.app_id
        return api.AppPublishResponse(url='http://127.0.0.1/app', deployed_at=time.time())

    @rpc
    def ImageGetOrCreate(self, request):
        image_id = self.id('im', request.image.SerializeToString(deterministic=True))
        self.images[image_id] = request.image
        return api.ImageGetOrCreateResponse(
            image_id=image_id,
            result=Result(status=Result.GENERIC_STATUS_SUCCESS),
            metadata=api.ImageMetadata(image_builder_version=BUILDER),
        )

    @rpc
    def MountGetOrCreate(self, request):
        name = request.deployment_name or request.SerializeToString(deterministic=True)
        mount_id = self.id('mo', name)
        self.mounts[mount_id] = {file.filename: file.sha256_hex for file in request.files}
        metadata = api.MountHandleMetadata(content_checksum_sha256_hex='0' * 64)
        return api.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    @rpc
    def MountBatchedCheckExistence(self, request):
        missing = [sha for sha in request.sha256_hex_hashes if sha not in self.contents]
        return api.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @rpc
    def MountPutFile(self, request):
        if request.WhichOneof('data_oneof'):
            self.contents[request.sha256_hex] = request.data
        return api.MountPutFileResponse(exists=request.sha256_hex in self.contents)

    @rpc
    def FunctionPrecreate(self, request):
        name = f'{request.app_id}/{request.function_name}'
        handle = api.FunctionHandleMetadata(
            function_name=request.function_name,
            app_id=request.app_id,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        return api.FunctionPrecreateResponse(
            function_id=request.existing_function_id or self.id('fu', name),
            handle_metadata=handle,
        )

    @rpc
    def FunctionCreate(self, request):
        asked = request.function
        if request.HasField('function_data'):
            asked = request.function_data.ranked_functions[0].function
        name = f'{request.app_id}/{asked.function_name}'
        function = request.existing_function_id or self.id('fu', name)
        self.functions[function] = request
        return api.FunctionCreateResponse(
            function_id=function,
            handle_metadata=self.handle_of(function),
            function_data=self._data_of(function),
        )

    @rpc
    def FunctionGet(self, request):
        app_id = self.names.get(('ap', request.app_name))
        function = self.apps.get(app_id, {}).get(request.object_tag)
        if not function:
            message = f"App '{request.app_name}' has no function '{request.object_tag}'"
            raise GRPCError(Status.NOT_FOUND, message)
        return api.FunctionGetResponse(
            function_id=function,
            handle_metadata=self.handle_of(function),
            function=self._data_of(function),
        )


class Calls:
    """Calls, their inputs and outputs."""

    def config_name(self, call: Call) -> str:
        """The config's name in a training call's arguments; '' in other calls."""
        arguments, _ = cbor2.loads(call.input.args)
        first = arguments[0] if arguments else None
        return first.get('name', '') if isinstance(first, dict) else ''

    def answer(self, call: Call, result, data_format=0):
        """Give a call its output."""
        call.output = api.FunctionGetOutputsItem(
            result=result,
            idx=0,
            input_id=call.input_id,
            data_format=data_format,
            task_id=call.task,
            retry_count=call.retry,
        )

    @rpc
    def FunctionMap(self, request):
        call_id = self.id('fc')
        items = []
        for put in request.pipelined_inputs:
            call = Call(
                id=call_id,
                function=request.function_id,
                input=put.input,
                kind=request.function_call_invocation_type,
                input_id=self.id('in'),
            )
            self.calls[call_id] = call
            items.append(
                api.FunctionPutInputsResponseItem(
                    idx=put.idx, input_id=call.input_id, input_jwt=call.input_id
                )
            )
        return api.FunctionMapResponse(
            function_call_id=call_id,
            pipelined_inputs=items,
            retry_policy=self.definition(request.function_id).retry_policy,
        )

    @rpc
    async def FunctionGetOutputs(self, request):
        call = self.calls.get(request.function_call_id)
        if call is None:
            raise GRPCError(Status.NOT_FOUND, 'no such call')
        end = time.time() + request.timeout
        while call.output is None and time.time() < end:
            await asyncio.sleep(0.05)
        return api.FunctionGetOutputsResponse(
            outputs=[call.output] if call.output else [],
            num_unfinished_inputs=int(call.output is None),
        )

    @rpc
    def FunctionCallCancel(self, request):
        call = self.calls[request.function_call_id]
        call.cancelled = True
        if not call.task:
            self.answer(call, Result(status=Result.GENERIC_STATUS_TERMINATED))

    @rpc
    def FunctionGetInputs(self, request, task):
        """A machine asks for work: it gets one input, and then is told to end."""
        call = task.call
        if task.is_handed:
            item = api.FunctionGetInputsItem(kill_switch=True)
        else:
            task.is_handed = True
            item = api.FunctionGetInputsItem(
                input_id=call.input_id,
                input=call.input,
                function_call_id=call.id,
                function_call_invocation_type=call.kind,
                retry_count=call.retry,
            )
        return api.FunctionGetInputsResponse(inputs=[item])

    @rpc
    def FunctionPutOutputs(self, request):
        for output in request.outputs:
            call = next(c for c in self.calls.values() if c.input_id == output.input_id)
            retries = self.definition(call.function).retry_policy.retries
            has_failed = output.result.status == Result.GENERIC_STATUS_FAILURE
            if has_failed and call.retry < retries:
                call.retry += 1
                self.tasks[call.task].why = 'settled'
                call.task = ''
            else:
                self.answer(call, output.result, output.data_format)

    @rpc
    def ContainerHeartbeat(self, request, task):
        event = None
        if task.call.cancelled and task.is_handed and task.why == '':
            task.why = 'cancelled'
            event = api.CancelInputEvent(input_ids=[task.call.input_id])
        return api.ContainerHeartbeatResponse(cancel_input_event=event)

    @rpc
    def ContainerHello(self, request):
        pass

    @rpc
    def ContainerLog(self, request):
        pass

    @rpc
    def TaskResult(self, request, task):
        """A machine failed before it came to its input."""
        self.answer(task.call, request.result)


@patch_mock_servicer
class Modal(Workspace, Apps, Calls, Machines, Volumes, ModalClientBase):
    """The other end. `folder` gets volumes/NAME, what is committed, and tasks/ID, what a
    machine sees."""

    def __init__(self, folder: Path, machines: int = 2, env: dict = None):
        self.folder = Path(folder)
        self.machines = machines  # how many train at the same time
        self.env = dict(env or {})  # further variables of every machine

        # What a test sets.
        self.faults = {}  # {config's name: [Fault, ...]}
        self.full = set()  # volumes that nothing more fits on
        self.secrets = {}  # {name: {key: value}}
        self.report = None  # [(app's name, dollars), ...]; None: the plan has no billing reports

        # What the client has created.
        self.names, self.count = {}, {}  # {(kind, name): id}, {kind: how many}
        self.apps, self.functions, self.calls, self.tasks = {}, {}, {}, {}
        self.images, self.mounts, self.contents, self.dicts = {}, {}, {}, {}
        self.doors, self.blocks, self.gone, self.log = {}, {}, set(), []

        self.loop, self.over = asyncio.new_event_loop(), False
        self.ready = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        assert self.ready.wait(20), 'the stand-in for Modal did not start'

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def _serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._open())
        self.ready.set()
        self.loop.run_forever()

    async def _open(self):
        """Open a port for the protocol and one for downloads, and start the clock."""
        self.server = Server([self])
        await self.server.start('127.0.0.1', 0)
        self.port = self.server._server.sockets[0].getsockname()[1]
        downloads = web.Application()
        downloads.router.add_get('/{sha}', self.send_block)
        runner = web.AppRunner(downloads)
        await runner.setup()
        site = web.TCPSite(runner, '127.0.0.1', 0)
        await site.start()
        self.http = site._server.sockets[0].getsockname()[1]
        self.ticking = self.loop.create_task(self._tick())

    def close(self):
        """Stop the clock, the machines and the server."""
        self.over = True
        self.kill_all()  # so that nothing waits for a machine
        asyncio.run_coroutine_threadsafe(asyncio.wait([self.ticking]), self.loop).result(60)
        self.kill_all()
        self.server.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
