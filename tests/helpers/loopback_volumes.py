"""Volumes of the stand-in for Modal: what a machine writes is its own until it commits."""

import asyncio
import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import psutil
from aiohttp import web
from grpclib import GRPCError, Status
from loopback_protocol import rpc
from modal_proto import api_pb2 as api

BLOCK_BYTES = 8 * 2**20


def file_stamps(folder: Path) -> dict:
    """{path: (time of change, size)} of all files in a folder, links included."""
    stamps = {}
    for path in folder.rglob('*'):
        with contextlib.suppress(FileNotFoundError):  # a temporary file that has gone
            if path.is_symlink() or path.is_file():
                stat = path.lstat()
                stamps[path.relative_to(folder).as_posix()] = (stat.st_mtime_ns, stat.st_size)
    return stamps


def copy_file(source: Path, target: Path):
    """Copy a file or a link, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(os.readlink(source))
            return
        # A short name: the name of a lock has hardly room for more.
        part = target.with_name(f'{hash(target.name):x}.~copy')
        try:
            shutil.copy2(source, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except FileNotFoundError:  # a temporary file that was renamed meanwhile
        with contextlib.suppress(OSError):
            target.parent.rmdir()


def remove_file(path: Path):
    """Remove a file and the folders that it leaves empty."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        try:
            folder.rmdir()
        except OSError:
            return


class Volumes:
    """Each volume is a folder `volumes/NAME` of committed files.

    Each machine has a copy of its own."""

    def volume(self, name) -> Path:
        folder = self.folder / 'volumes' / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # --- a machine's copy

    def mount(self, task, mount):
        """Give a machine its copy of a volume."""
        name = self.name_of_id(mount.volume_id)
        path = task.path_of(mount.mount_path)
        path.mkdir(parents=True, exist_ok=True)
        task.seen[name] = {}
        self.bring_in(task, name, path)

    def bring_in(self, task, name: str, path: Path):
        """Copy what others have committed, except over what this machine has changed."""
        committed, mine = file_stamps(self.volume(name)), file_stamps(path)
        seen = task.seen[name]
        for file, stamp in committed.items():
            is_unchanged = mine.get(file, (0, 0)) == seen.get(file, (0, 0))
            if is_unchanged and mine.get(file) != stamp:
                copy_file(self.volume(name) / file, path / file)
        for file in seen:
            if file not in committed and mine.get(file) == seen[file]:
                (path / file).unlink(missing_ok=True)
        task.seen[name] = {f: stamp for f, stamp in file_stamps(path).items() if f in committed}

    def send_out(self, task, name: str, path: Path):
        """Commit what this machine has changed, and remove what it has removed."""
        mine = file_stamps(path)
        for file, stamp in mine.items():
            if task.seen[name].get(file) != stamp:
                copy_file(path / file, self.volume(name) / file)
        for file in set(task.seen[name]) - set(mine):
            remove_file(self.volume(name) / file)
        task.seen[name] = mine

    def _mounted(self, task, volume_id):
        """The name of a volume, and where a machine has it."""
        mounts = self.definition(task.call.function).volume_mounts
        path = next(m.mount_path for m in mounts if m.volume_id == volume_id)
        return self.name_of_id(volume_id), task.path_of(path)

    # --- the protocol

    @rpc
    async def VolumeCommit(self, request, task):
        name, path = self._mounted(task, request.volume_id)
        if name in self.full:
            raise GRPCError(Status.FAILED_PRECONDITION, f'no space left on volume {name}')
        await asyncio.to_thread(self.send_out, task, name, path)
        return api.VolumeCommitResponse(skip_reload=True)

    @rpc
    async def VolumeReload(self, request, task):
        name, path = self._mounted(task, request.volume_id)
        main = psutil.Process(task.process.pid)
        for process in [main, *main.children(recursive=True)]:
            if any(file.path.startswith(str(path)) for file in process.open_files()):
                raise GRPCError(
                    Status.FAILED_PRECONDITION, 'there are open files preventing the operation'
                )
        await asyncio.to_thread(self.bring_in, task, name, path)

    @rpc
    def VolumeGetOrCreate(self, request):
        name = request.deployment_name
        self.volume(name)
        return api.VolumeGetOrCreateResponse(
            volume_id=self.id('vo', name),
            version=2,
            metadata=api.VolumeMetadata(version=2, name=name),
        )

    @rpc
    def VolumeListFiles2(self, request):
        base = self.volume(self.name_of_id(request.volume_id))
        folder = base / request.path.strip('/')
        if not folder.exists():
            raise GRPCError(Status.NOT_FOUND, f'no such file or directory: {request.path}')
        entries = []
        for path in sorted(folder.rglob('*') if request.recursive else folder.iterdir()):
            entries.append(
                api.FileEntry(
                    path=path.relative_to(base).as_posix(),
                    type=2 if path.is_dir() else 1,
                    mtime=int(path.stat().st_mtime),
                    size=path.stat().st_size,
                )
            )
        return api.VolumeListFiles2Response(entries=entries)

    @rpc
    def VolumeGetFile2(self, request):
        file = self.volume(self.name_of_id(request.volume_id)) / request.path.strip('/')
        if not file.is_file():
            raise GRPCError(Status.NOT_FOUND, f'no such file: {request.path}')
        data = file.read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        self.blocks[sha] = data  # named by content, so that a commit meanwhile changes none
        starts = range(0, len(data), BLOCK_BYTES)
        urls = [f'http://127.0.0.1:{self.http}/{sha}?at={start}' for start in starts]
        return api.VolumeGetFile2Response(get_urls=urls, size=len(data), start=0, len=len(data))

    async def send_block(self, request):
        """Answer a download by HTTP."""
        start = int(request.query['at'])
        data = self.blocks[request.match_info['sha']]
        return web.Response(body=data[start : start + BLOCK_BYTES])
