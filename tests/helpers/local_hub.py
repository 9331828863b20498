"""A small server that speaks the hub's API, for the real client: collections, commits, files."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = ('.safetensors', '.bin')


def commit_of(folder: Path) -> str:
    """A repository's commit: of what is in it."""
    parts = [path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir())]
    return hashlib.sha1(b''.join(parts)).hexdigest()


def entry_of(path: Path) -> dict:
    """A file as the hub lists it."""
    content = path.read_bytes()
    blob = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
    entry = dict(type='file', path=path.name, size=len(content), oid=blob)
    if path.suffix in LARGE:
        oid = hashlib.sha256(content).hexdigest()
        entry |= dict(lfs=dict(oid=oid, size=len(content), pointerSize=134))
    return entry


class Hub:
    """What the server has, and what it was asked for."""

    def __init__(self):
        self.repositories = {}  # {repo: folder}
        self.collections = {}  # {slug: repos}
        self.asked = []

    def collection(self, slug) -> dict:
        items = [
            dict(_id=str(number), id=repo, type='model', position=number)
            for number, repo in enumerate(self.collections[slug])
        ]
        return dict(
            slug=slug,
            title='Rerankers',
            owner=dict(name=slug.split('/')[0], type='user'),
            items=[*items, dict(_id='p', id='2501.00001', type='paper', position=len(items))],
            lastUpdated='2026-01-01T00:00:00.000Z',
            position=0,
            private=False,
            theme='blue',
            upvotes=0,
        )

    def model(self, repo) -> dict:
        folder = self.repositories[repo]
        return dict(
            _id='0',
            id=repo,
            modelId=repo,
            sha=commit_of(folder),
            private=False,
            tags=[],
            downloads=0,
            likes=0,
            cardData=dict(license='mit'),
            siblings=[dict(rfilename=path.name) for path in sorted(folder.iterdir())],
        )

    def answer(self, path: str):
        """JSON, or the path of a file."""
        parts = path.split('?')[0].strip('/').split('/')
        if parts[:2] == ['api', 'collections']:
            return self.collection('/'.join(parts[2:4]))
        if parts[:2] == ['api', 'models']:
            repo = '/'.join(parts[2:4])
            if parts[4:5] == ['tree']:
                return [entry_of(file) for file in sorted(self.repositories[repo].iterdir())]
            return self.model(repo)
        return self.repositories['/'.join(parts[:2])] / parts[4]  # owner/name/resolve/commit/file


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def reply(self, with_body: bool):
        hub = self.server.hub
        hub.asked.append(self.path)
        try:
            found = hub.answer(self.path)
            body = found.read_bytes() if isinstance(found, Path) else json.dumps(found).encode()
        except (KeyError, FileNotFoundError, IndexError):
            self.send_response(404)
            self.send_header('X-Error-Code', 'RepoNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        if isinstance(found, Path):
            entry = entry_of(found)
            etag = entry.get('lfs', entry)['oid']
            self.send_header('ETag', f'"{etag}"')
            self.send_header('X-Repo-Commit', commit_of(found.parent))
        else:
            self.send_header('Content-Type', 'application/json')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_GET(self):
        self.reply(with_body=True)

    def do_HEAD(self):
        self.reply(with_body=False)

    def log_message(self, *_):
        pass


@contextmanager
def local_hub():
    """Yield (hub, address) of a server on this machine."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.hub = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub, f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
