"""Serve on loopback the part of the Hub's HTTP API that huggingface_hub needs to publish and load a repository.

Written after what huggingface_hub 2.4.0 sends and reads (hf_api, _commit_api, lfs, file_download, utils/_http);
nothing of the client is patched. It reads HF_ENDPOINT when it is imported: give `HubServer.environment()` to a new
process. That sets HF_HUB_DISABLE_XET=1 as well: without Xet, whose protocol is not here, the client uploads and
downloads by LFS, in one piece (the Hub takes files above 5 GB in several).

    GET  /api/whoami-v2                                  whoami
    POST /api/repos/create                               create_repo
    POST /api/validate-yaml                              create_commit, for README.md
    GET  /api/models/{repo}[/revision/{revision}]        repo_info, resolve_revision
    GET  /api/models/{repo}/refs                         list_repo_refs
    GET  /api/models/{repo}/commits/{revision}           list_repo_commits
    GET  /api/models/{repo}/tree/{revision}[/{folder}]   list_repo_tree
    POST /api/models/{repo}/paths-info/{revision}        get_paths_info
    GET  /api/models/{repo}/discussions                  get_repo_discussions
    POST /api/models/{repo}/branch/{revision}            create_branch
    POST /api/models/{repo}/preupload/{revision}         create_commit: which files go by LFS, and what is there
    POST /{repo}.git/info/lfs/objects/batch              create_commit: which LFS objects are missing
    PUT  /lfs/{sha256}, POST /lfs/verify                 create_commit: their upload
    POST /api/models/{repo}/commit/{revision}            create_commit, with parent check; ?create_pr=1
    HEAD, GET /{repo}/resolve/{revision}/{path}          hf_hub_download and from_pretrained, with etags
    GET  /cdn/{sha256}                                   where /resolve sends for LFS files: another host, with ranges

Datasets: /api/datasets/… and /datasets/{repo}/…, which is all that load_dataset asks for. Spaces are made with an SDK.

Any answer can be an error (`fail`), any connection be cut in the middle (`cut`), and the repository change between two
requests (`when`).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

DATE = "2026-01-01T00:00:00.000Z"
LFS_SUFFIXES = (".safetensors", ".png", ".parquet")
LFS_SIZE = 10_000_000  # bytes, above which any file is sent by LFS


class File(NamedTuple):
    """A file of a commit."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        )

    @property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


class Commit(NamedTuple):
    """A commit; `files` by path."""

    oid: str
    title: str
    files: dict[str, File]
    parent: str | None


@dataclass
class Repo:
    """`refs`: branch, or refs/pr/1, → commit; `pulls`: (number, title, author) of the open pull requests."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: list[tuple[int, str, str]] = field(default_factory=list)

    def add_commit(self, ref: str, title: str, files: dict[str, File], parent: str | None) -> Commit:
        content = sorted((path, file.blob_id) for path, file in files.items())
        oid = hashlib.sha1(repr((parent, title, content)).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files, parent)
        self.refs[ref] = oid
        return self.commits[oid]

    @property
    def files(self) -> dict[str, bytes]:
        """Return the commit of the main branch."""
        return {path: file.data for path, file in self.commits[self.refs["main"]].files.items()}

    def titles(self, ref: str = "main") -> list[str]:
        """Return the commits of a branch, newest first."""
        titles, oid = [], self.refs[ref]
        while oid:
            titles.append(self.commits[oid].title)
            oid = self.commits[oid].parent
        return titles


@dataclass
class Fault:
    """A fault in the next `times` requests whose "METHOD /path" matches."""

    pattern: str
    times: int
    status: int | None = None  # respond with this error
    headers: dict[str, str] = field(default_factory=dict)
    cut: str | None = None  # "request": read half of it; "answer": do as asked, but send half of the response
    action: Callable[[], None] | None = None  # before the request is handled


class Refused(Exception):
    """An error response: status, message and the X-Error-Code that the client relies on."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class HubServer:
    """The server and its state; a context manager.

    `tokens` are by token; `repos` by (kind, name), such as ("models", "ada/model"); `objects` are the LFS objects by
    sha256; `requests` are the "METHOD /path" that came, `uploads` the sha256 of the objects that came whole, and
    `ranges` the ranges of files that were asked for.
    """

    def __init__(self):
        self.tokens = {
            "hf_ada": {"name": "ada", "role": "write", "orgs": {"clinic": "write", "museum": "read"}},
            "hf_ada_reads": {"name": "ada", "role": "read", "orgs": {}},
            "hf_eve": {"name": "eve", "role": "write", "orgs": {}},
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.uploads: list[str] = []
        self.ranges: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        port = self.server.server_address[1]
        # Two names of one server: to the client, the second is another host, as the Hub's storage is
        self.url, self.storage_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = "hf_ada") -> dict[str, str]:
        """Return the variables for a process that uses this Hub and keeps its downloads in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        } | ({} if token is None else {"HF_TOKEN": token})

    def fail(self, pattern: str, status: int, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """Answer the next `times` requests like `pattern` with an error."""
        self.faults.append(Fault(pattern, times, status, headers or {}))

    def cut(self, pattern: str, where: str = "request", times: int = 1) -> None:
        """Cut the connection of the next `times` requests like `pattern`, in the middle of the request or response."""
        self.faults.append(Fault(pattern, times, cut=where))

    def when(self, pattern: str, action: Callable[[], None]) -> None:
        """Call `action` once, before a request like `pattern` is handled."""
        self.faults.append(Fault(pattern, 1, action=action))

    def next_fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.match(fault.pattern, request):
                    fault.times -= 1
                    if fault.action is None:
                        return fault
                    fault.action()
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection. The methods from `whoami` on are the endpoints, called with the parts of the path."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.fault = None
        self.path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        request = f"{self.command} {self.path}"
        self.fault = self.hub.next_fault(request)
        if self.fault and self.fault.cut == "request":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            return
        self.body = self.read_body()
        try:
            if self.fault and self.fault.status:
                raise Refused(self.fault.status, "This is a test", headers=self.fault.headers)
            endpoint, parts = self.route(request)
            with self.hub.lock:
                answer = endpoint(self, *parts)
        except Refused as refused:
            code = {"X-Error-Code": refused.code} if refused.code else {}
            headers = {"X-Error-Message": refused.message} | code | refused.headers
            self.send(refused.status, json.dumps({"error": refused.message}).encode(), headers)
        else:
            if answer is not None:  # otherwise the endpoint has sent its own response
                self.send(200, json.dumps(answer).encode())

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self, request: str) -> tuple[Callable, list[str | None]]:
        for pattern, endpoint in ROUTES:
            if match := re.fullmatch(pattern, request):
                return endpoint, [part and unquote(part) for part in match.groups()]
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.fault and self.fault.cut == "answer":
            data = data[: len(data) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass

    # Permissions

    def user(self) -> dict | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def may_write(self, user: dict, name: str) -> bool:
        owner = name.split("/")[0]
        return user["role"] == "write" and (owner == user["name"] or user["orgs"].get(owner) == "write")

    def is_direct(self, revision: str) -> bool:
        """Return whether a request commits to a branch: with read access alone one may write to pull requests."""
        return "create_pr" not in self.query and not unquote(revision).startswith("refs/pr/")

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        repo, user = self.hub.repos.get((kind, name)), self.user()
        owner = name.split("/")[0]
        visible = repo and (not repo.private or user and (owner == user["name"] or owner in user["orgs"]))
        if not visible:
            # Over https the client takes any 401 for a missing repository; over http it needs the code to do so
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refused(401, "Invalid username or password.")
        if write and not self.may_write(user, name):
            raise Refused(403, f"You don't have the rights to write to {name}")
        return repo

    def commit_of(self, repo: Repo, revision: str) -> Commit:
        oid = repo.refs.get(revision.removeprefix("refs/heads/"), revision)
        if oid not in repo.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo.commits[oid]

    # Users and repositories

    def whoami(self) -> dict:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        return {
            "type": "user",
            "name": user["name"],
            "orgs": [{"type": "org", "name": name, "roleInOrg": role} for name, role in user["orgs"].items()],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": user["role"]}},
        }

    def create_repo(self) -> dict:
        asked, user = json.loads(self.body), self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization'] or user['name']}/{asked['name']}"
        if not self.may_write(user, name):
            raise Refused(403, f"You don't have the rights to create a {kind[:-1]} under {name.split('/')[0]}")
        if kind == "spaces" and asked.get("sdk") not in ("gradio", "docker", "static"):
            raise Refused(400, "A Space needs an sdk")
        if (kind, name) in self.hub.repos:
            raise Refused(409, f"You already created this {kind[:-1]} repo: {name}")
        repo = self.hub.repos[kind, name] = Repo(private=asked.get("visibility") == "private")
        repo.add_commit("main", "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}, None)
        return {"url": f"{self.hub.url}/{_prefix(kind)}{name}", "name": name}

    def validate_yaml(self) -> dict | None:
        content = json.loads(self.body)["content"]
        if not content.startswith("---\n"):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        if "\n---\n" in content[4:]:
            return {"errors": [], "warnings": []}
        self.send(400, json.dumps({"errors": [{"message": "the metadata does not end"}], "warnings": []}).encode())

    def repo_info(self, kind: str, name: str, revision: str | None) -> dict:
        repo = self.repo(kind, name)
        commit = self.commit_of(repo, revision or "main")
        siblings = [{"rfilename": path} for path in commit.files]
        if "blobs" in self.query:
            for sibling, (path, file) in zip(siblings, commit.files.items(), strict=True):
                entry = _entry(path, file)
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if file.is_lfs:
                    sibling["lfs"] = entry["lfs"] | {"sha256": file.sha256}
        info = {
            "id": name,
            "author": name.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "createdAt": DATE,
            "lastModified": DATE,
            "tags": [],
            "siblings": siblings,
        }
        card = commit.files.get("README.md", File(b"", False)).data.decode()
        for key in ("pipeline_tag", "library_name"):
            if found := re.search(rf"^{key}: *(\S+)", card, re.MULTILINE):
                info[key] = found[1]
        return info

    def refs(self, kind: str, name: str) -> dict:
        repo = self.repo(kind, name)
        branches = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if not ref.startswith("refs/pr/")
        ]
        pulls = [
            {"name": str(number), "ref": f"refs/pr/{number}", "targetCommit": repo.refs[f"refs/pr/{number}"]}
            for number, *_ in repo.pulls
        ]
        return {"branches": branches, "converts": [], "tags": [], "pullRequests": pulls}

    def commits(self, kind: str, name: str, revision: str) -> list[dict]:
        repo = self.repo(kind, name)
        commits, commit = [], self.commit_of(repo, revision)
        while commit:
            commits.append({"id": commit.oid, "title": commit.title, "message": "", "date": DATE, "authors": []})
            commit = repo.commits.get(commit.parent)
        return commits

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> list[dict]:
        commit = self.commit_of(self.repo(kind, name), revision)
        start = f"{folder}/" if folder else ""
        inside = {path: file for path, file in commit.files.items() if path.startswith(start)}
        if folder and not inside:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        if self.query.get("recursive") == ["true"]:
            return [_entry(path, file) for path, file in inside.items()]
        folders = {path[: path.index("/", len(start))] for path in inside if "/" in path[len(start) :]}
        entries = [_entry(path, file) for path, file in inside.items() if "/" not in path[len(start) :]]
        return entries + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]

    def paths_info(self, kind: str, name: str, revision: str) -> list[dict]:
        files = self.commit_of(self.repo(kind, name), revision).files
        return [_entry(path, files[path]) for path in parse_qs(self.body.decode()).get("paths", []) if path in files]

    def discussions(self, kind: str, name: str) -> dict:
        repo, author = self.repo(kind, name), self.query.get("author", [None])[0]
        found = [
            {
                "num": number,
                "title": title,
                "author": {"name": by},
                "createdAt": DATE,
                "status": "open",
                "isPullRequest": True,
                "repo": {"name": name, "type": kind[:-1]},
            }
            for number, title, by in repo.pulls
            if author in (None, by)
        ]
        return {"discussions": found, "count": len(found), "start": 0}

    def create_branch(self, kind: str, name: str, branch: str) -> dict:
        repo = self.repo(kind, name, write=True)
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repo.refs[branch] = self.commit_of(repo, start).oid
        return {}

    # Writing

    def preupload(self, kind: str, name: str, revision: str) -> dict:
        files = self.commit_of(self.repo(kind, name, write=self.is_direct(revision)), revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            is_lfs = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] >= LFS_SIZE
            known = files.get(asked["path"])
            oid = known and (known.sha256 if known.is_lfs else known.blob_id)
            mode = "lfs" if is_lfs else "regular"
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def lfs_batch(self, prefix: str | None, name: str) -> dict:
        asked = json.loads(self.body)
        ref = asked.get("ref", {}).get("name", "refs/pr/")  # without one it is for a pull request
        self.repo(prefix or "models", name, write=self.is_direct(ref))
        objects = []
        for wanted in asked["objects"]:
            if wanted["oid"] not in self.hub.objects:
                href = {"upload": f"lfs/{wanted['oid']}", "verify": "lfs/verify"}
                wanted["actions"] = {action: {"href": f"{self.hub.url}/{path}"} for action, path in href.items()}
            objects.append(wanted)
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The object is not what its name says")
        self.hub.objects[oid] = self.body
        self.hub.uploads.append(oid)
        self.send(200)

    def lfs_verify(self) -> dict:
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "The object did not arrive")
        return {}

    def commit(self, kind: str, name: str, revision: str) -> dict:
        create_pr = "create_pr" in self.query
        repo, user = self.repo(kind, name, write=self.is_direct(revision)), self.user()
        if user is None or user["role"] != "write":
            raise Refused(403, "This token may not write")
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        head = self.commit_of(repo, revision)
        parent = header["value"].get("parentCommit", head.oid)
        if not create_pr and parent != head.oid:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commit_of(repo, parent).files)
        for operation in operations:
            self.apply(operation["key"], operation["value"], files)
        ref = revision
        if create_pr:
            ref = f"refs/pr/{len(repo.pulls) + 1}"
            repo.pulls.append((len(repo.pulls) + 1, header["value"]["summary"], user["name"]))
        commit = repo.add_commit(ref, header["value"]["summary"], files, parent)
        url = f"{self.hub.url}/{_prefix(kind)}{name}"
        answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
        return answer | ({"pullRequestUrl": f"{url}/discussions/{len(repo.pulls)}"} if create_pr else {})

    def apply(self, key: str, value: dict, files: dict[str, File]) -> None:
        match key:
            case "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            case "lfsFile" if value["oid"] in self.hub.objects:
                files[value["path"]] = File(self.hub.objects[value["oid"]], True)
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            case _:
                raise Refused(400, f"{key} of {value['path']} cannot be committed")

    # Reading files

    def resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        commit = self.commit_of(self.repo(prefix or "models", name), revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound", headers)
        if file.is_lfs:
            linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
            self.send(302, headers=headers | linked | {"Location": f"{self.hub.storage_url}/cdn/{file.sha256}"})
        else:
            self.send_range(file.data, headers | {"ETag": f'"{file.blob_id}"'})

    def storage(self, sha256: str) -> None:
        if "Authorization" in self.headers:
            raise Refused(400, "The token of the Hub is not for its storage")
        self.send_range(self.hub.objects[sha256], {"ETag": f'"{sha256}"'})

    def send_range(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.send(200, data, headers | {"Accept-Ranges": "bytes"})
        self.hub.ranges.append(wanted[0])
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            raise Refused(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{len(data)}"})
        span = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self.send(206, data[first : last + 1], headers | span)


def _prefix(kind: str) -> str:
    return "" if kind == "models" else f"{kind}/"


def _entry(path: str, file: File) -> dict:
    entry = {"type": "file", "path": path, "oid": file.blob_id, "size": len(file.data)}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return entry


_API = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create_repo),
    (r"POST /api/validate-yaml", Handler.validate_yaml),
    (rf"GET {_API}(?:/revision/([^/]+))?", Handler.repo_info),
    (rf"GET {_API}/refs", Handler.refs),
    (rf"GET {_API}/commits/([^/]+)", Handler.commits),
    (rf"GET {_API}/tree/([^/]+)(?:/(.+))?", Handler.tree),
    (rf"POST {_API}/paths-info/([^/]+)", Handler.paths_info),
    (rf"GET {_API}/discussions", Handler.discussions),
    (rf"POST {_API}/branch/([^/]+)", Handler.create_branch),
    (rf"POST {_API}/preupload/([^/]+)", Handler.preupload),
    (rf"POST {_API}/commit/([^/]+)", Handler.commit),
    (r"POST /(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/([0-9a-f]{64})", Handler.lfs_upload),
    (r"POST /lfs/verify", Handler.lfs_verify),
    (r"(?:HEAD|GET) /(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
    (r"(?:HEAD|GET) /cdn/([0-9a-f]{64})", Handler.storage),
]
