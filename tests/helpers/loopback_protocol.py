"""How a method becomes a handler of Modal's protocol."""

import functools
import inspect

from google.protobuf.empty_pb2 import Empty


def rpc(handler):
    """Receive the request, call the method, send its answer (None is an empty one).

    A method with a parameter `task` gets the machine that asks, one with `stream` gets the stream."""
    parameters = inspect.signature(handler).parameters

    @functools.wraps(handler)
    async def handle(self, stream):
        request = await stream.recv_message()
        arguments = {}
        if 'task' in parameters:
            arguments['task'] = self.task_of(stream)
        if 'stream' in parameters:
            arguments['stream'] = stream
        answer = handler(self, request, **arguments)
        if inspect.isawaitable(answer):
            answer = await answer
        await stream.send_message(Empty() if answer is None else answer)

    return handle
