"""A small Hugging Face hub on loopback that serves files from memory to `huggingface_hub` and `datasets`.

A process started with `Hub.environment` gets models and data sets from it, over real HTTP. A test defines the
repositories, who may read them, and which responses are cut off, and it can inspect the requests.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

TOKENS = {"hf_member": True, "hf_stranger": False}  # token -> its account has accepted the terms of gated repositories
LARGE = (".safetensors", ".bin", ".parquet")  # stored as large files (LFS), as on the real hub
LARGE_FROM = 16  # least bytes of a large file
PATIENCE_S = 60


class Repository(msgspec.Struct):
    """A model or a data set."""

    revisions: dict[str, dict[str, bytes]]  # branch or tag -> path -> content
    gated: bool = False

    def commit(self, revision: str) -> str:
        """Return the commit of a branch or tag: a hash of its files."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.revisions[revision].items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and the files of a branch, a tag or a commit; None if there is no such revision."""
        for name, files in self.revisions.items():
            if revision in (name, self.commit(name)):
                return self.commit(name), files
        return None


class HubRequest(NamedTuple):
    """A received request."""

    method: str
    path: str
    range: str


class Hub(ThreadingHTTPServer):
    """The server. ``repositories`` are by path: "org/tiny" is a model, "datasets/org/tiny" a data set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.cuts: dict[str, int] = {}  # file -> bytes after which its next response breaks off
        self.waits_at_cuts = False  # instead of breaking off at once, wait until ``over`` is set
        self.is_waiting, self.over = threading.Event(), threading.Event()
        self.refused: dict[str, int] = {}  # file -> status that is sent instead of it
        self.requests: list[HubRequest] = []
        self.lock = threading.Lock()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return environment variables for a process that uses this hub, with its cache in ``home``."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}

    def fetched(self) -> list[str]:
        """Return the names of the files requested with GET, sorted, each once."""
        sent = [
            request.path.partition("/resolve/")[2].partition("/")[2]
            for request in self.requests
            if request.method == "GET"
        ]
        return sorted({name for name in sent if name})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path.strip("/")
        with self.server.lock:
            self.server.requests.append(HubRequest(self.command, unquote(path), self.headers.get("Range", "")))
        is_api = path.startswith("api/")
        words = path.removeprefix("api/").removeprefix("models/").split("/")
        size = 3 if words[0] == "datasets" else 2
        name, route = "/".join(words[:size]), [unquote(word) for word in words[size:]]
        repository = self.server.repositories.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        if repository is None:
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        noun, revision = route[0] if route else "revision", route[1] if len(route) > 1 else "main"
        inside = "/".join(route[2:])
        state = repository.find(revision)
        if state is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif is_api:
            self._tell(name.removeprefix("datasets/"), noun, *state, inside, body)
        elif repository.gated and not TOKENS.get(token):
            self._refuse(403 if token else 401, "GatedRepo", f"Access to {name} is restricted.")
        else:
            self._file(inside, *state)

    def _tell(self, name: str, noun: str, commit: str, files: dict[str, bytes], inside: str, body: bytes) -> None:
        """Send the API's description of a repository, of a folder in it, or of some of its paths."""
        if noun == "revision":
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False})
        elif noun == "tree":
            deep = "recursive=true" in urlsplit(self.path).query.lower()
            self._json(_entries({path: files[path] for path in files if _is_in(path, inside)}, inside, deep))
        elif noun == "paths-info":
            paths = json.loads(body)["paths"]
            entries = _entries({path: files[path] for path in files if path in paths}, "", True)
            folders = [path for path in paths if path not in files and any(_is_in(file, path) for file in files)]
            self._json([*entries, *(_folder(path) for path in folders)])
        else:
            self._send(404)

    def _file(self, path: str, commit: str, files: dict[str, bytes]) -> None:
        """Send a file, or the range requested of it; cut off if a test demands it."""
        head = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", **head)
            return
        if code := self.server.refused.get(path, 0):
            self._send(code)
            return
        content = files[path]
        head |= {"ETag": f'"{_etag(path, content)}"', "Content-Disposition": f'inline; filename="{Path(path).name}"'}
        first, code = 0, 200
        if byte_range := self.headers.get("Range", "").removeprefix("bytes="):
            start, _, end = byte_range.partition("-")
            first, code = int(start), 206
            last = min(int(end) if end else len(content) - 1, len(content) - 1)
            head["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[: last + 1]
        cut = self.server.cuts.pop(path, None) if self.command == "GET" else None
        self._send(code, content[first:], head, cut)

    def _refuse(self, code: int, kind: str, message: str, **head: str) -> None:
        self._send(code, message.encode(), {"X-Error-Code": kind, "X-Error-Message": message, **head})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, body: bytes = b"", head: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(code)
        for name, value in (head or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None and self.server.waits_at_cuts:
            self.server.is_waiting.set()
            self.server.over.wait(PATIENCE_S)
        self.close_connection = cut is not None


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _entries(files: dict[str, bytes], folder: str, deep: bool) -> list[dict[str, Any]]:
    """Return the entries of a tree: the files below ``folder``, or unless ``deep``, its direct files and folders."""
    listed: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        inner = path.removeprefix(f"{folder}/") if folder else path
        if not deep and "/" in inner:
            at = path[: len(path) - len(inner)] + inner.partition("/")[0]
            listed[at] = _folder(at)
            continue
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        listed[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if _is_large(path, content):
            listed[path]["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 134}
    return list(listed.values())


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _is_large(path: str, content: bytes) -> bool:
    return path.endswith(LARGE) and len(content) >= LARGE_FROM


def _etag(path: str, content: bytes) -> str:
    if _is_large(path, content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub without repositories until the block is left."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        hub.shutdown()
        thread.join()
        hub.server_close()
