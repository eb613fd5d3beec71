"""A small server in the role of the Hub, which can fail in the ways in which servers and networks do."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub

from tests.models import contents

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD_COMMIT = "76543210fedcba9876543210fedcba9876543210"
NEW_COMMIT = "fedcba98765432100123456789abcdef76543210"

LARGE = (".safetensors", ".bin", ".gguf")
"""Files that the Hub knows by their SHA-256; the others have the SHA-1 of git."""


class Hub(ThreadingHTTPServer):
    """The part of the Hub's interface that downloading uses.

    Attributes:
        repos: Files of each repository by revision: `repos["owner/name"]["main"]["config.json"]`.
        commits: What revisions stand for; others stand for themselves.
        downloads: The files requested with GET: `owner/name/config.json`.
        listings: The repositories and revisions whose files were asked for.
        revisions: The revisions of which files were asked for.
        status: Answer everything with this HTTP status, if it is set.
        statuses: Answer the next requests with these, in turn.
        headers: Sent along with these.
        faults: By file name, a fault: `"hang"` (never answers), `"hang in data"` (stops in the middle),
            `"close"` (ends the connection), `"short"` (sends fewer bytes), `"500"` and the like,
            `"moved to URL"`, `"hang at head"`.
        sizes: Sizes that are listed in place of the real ones, by file name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.commits = {"main": COMMIT, "v1": OLD_COMMIT}
        self.downloads: list[str] = []
        self.listings: list[tuple[str, str]] = []
        self.revisions: set[str] = set()
        self.status: int | None = None
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.faults: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Ends the server and the connections to it; new ones are refused."""
        self.ended.set()
        huggingface_hub.close_session()
        self.shutdown()
        self.server_close()

    def add(self, repo: str, folder: Path, **more: bytes) -> None:
        """Puts a folder's files and more into a repository, on `main` and under its commit."""
        self.repos[repo] = {"main": contents(folder) | more}
        self.repos[repo][COMMIT] = self.repos[repo]["main"]

    def push(self, repo: str, folder: Path) -> None:
        """Moves `main` of a repository to another commit, with the files of a folder."""
        self.repos[repo] |= dict.fromkeys(("main", NEW_COMMIT), contents(folder))
        self.commits["main"] = NEW_COMMIT

    def downloaded(self, repo: str) -> list[str]:
        """The files of a repository that were downloaded, sorted."""
        prefix = repo + "/"
        return sorted(name.removeprefix(prefix) for name in self.downloads if name.startswith(prefix))


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        status = self.server.statuses.pop(0) if self.server.statuses else self.server.status
        if status is not None:
            self.answer(status, b"", self.server.headers)
        elif api:
            self.answer_api(api[1], api[2], api[3] or "main")
        elif file:
            self.answer_file(*file.groups())
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def answer_api(self, repo: str, what: str | None, revision: str) -> None:
        self.server.listings.append((repo, revision))
        files = self.files_of(repo, revision)
        if files is None:
            return
        siblings = [self.sibling(name, data) for name, data in files.items()]
        about = {"id": repo, "sha": self.commit_of(revision), "siblings": siblings}
        self.answer(200, json.dumps(about).encode())

    def sibling(self, name: str, data: bytes) -> dict:
        size = self.server.sizes.get(name, len(data))
        if not name.endswith(LARGE):
            return {"rfilename": name, "size": size}
        lfs = {"size": size, "sha256": etag_of(name, data), "pointerSize": 134}
        return {"rfilename": name, "size": size, "lfs": lfs}

    def answer_file(self, repo: str, revision: str, name: str) -> None:
        self.server.revisions.add(revision)
        files = self.files_of(repo, revision)
        if files is None:
            return
        if name not in files:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, fault = files[name], self.server.faults.get(name, "")
        if self.command == "GET":
            self.server.downloads.append(f"{repo}/{name}")
        headers = {"ETag": f'"{etag_of(name, data)}"', "X-Repo-Commit": self.commit_of(revision)}
        if fault.startswith("moved to "):
            location = {"Location": fault.removeprefix("moved to "), "X-Linked-Size": str(len(data))}
            self.answer(302, b"", headers | location)
        elif fault.isdecimal():
            self.answer(int(fault), b"", self.server.headers)
        elif fault.removesuffix(" at head") == "hang" and (self.command == "GET" or "head" in fault):
            self.server.ended.wait(60)
            self.close_connection = True
        elif fault == "close":
            self.close_connection = True
        elif fault and self.command == "GET":
            self.answer_in_part(data, headers, fault)
        else:
            self.answer(200, data, headers)

    def answer_in_part(self, data: bytes, headers: dict[str, str], fault: str) -> None:
        sent = data[: len(data) // 2]
        nbytes = len(sent) if fault == "short" else len(data)
        self.answer(200, sent, headers | {"Content-Length": str(nbytes)})
        if fault == "hang in data":
            self.wfile.flush()
            self.server.ended.wait(60)
        self.close_connection = True

    def files_of(self, repo: str, revision: str) -> dict[str, bytes] | None:
        if repo not in self.server.repos:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in self.server.repos[repo]:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return self.server.repos[repo][revision]
        return None

    def commit_of(self, revision: str) -> str:
        return self.server.commits.get(revision, revision)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def etag_of(name: str, data: bytes) -> str:
    return (hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1)(data).hexdigest()
