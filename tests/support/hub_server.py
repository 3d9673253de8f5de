"""A Hub in one process: the part of its HTTP API that `huggingface_hub` calls to create, push to and load a model."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import yaml


LFS_SUFFIXES = (".safetensors", ".bin", ".pt")
REPO = r"/(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"/api/models{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/models{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("GET", rf"/api/models{REPO}(/revision/(?P<revision>[^/]+))?", "model_info"),
    ("GET", rf"/api/models{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
    ("GET", rf"{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", rf"{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class HubServer(ThreadingHTTPServer):
    """
    A Hub on a free port of the loopback, as a context manager.

    Attributes:
        url: what `HF_ENDPOINT` is set to.
        commits: repository to its commits, oldest first, each a dict of path to bytes.
        requests: names of the routes that were called, in order.
        cuts: names of routes; each entry closes the connection of one request to that route in the middle of its body.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts: list[str] = []

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is no error of the server

    def files(self, repo: str) -> dict[str, bytes]:
        """What the last commit of `repo` holds."""
        return self.commits[repo][-1] if self.commits[repo] else {}

    def sha(self, repo: str) -> str:
        """The hash of the last commit."""
        return hashlib.sha1(f"{repo} {len(self.commits[repo])}".encode()).hexdigest()


class HubRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        matches = [(name, re.fullmatch(pattern, path)) for method, pattern, name in ROUTES if method == self.command]
        name, match = next((found for found in matches if found[1]), (None, None))
        if match is None:
            return self.send_error_code(404, "RouteNotFound")
        self.server.requests.append(name)
        length = int(self.headers.get("Content-Length") or 0)
        if name in self.server.cuts:
            self.server.cuts.remove(name)
            self.rfile.read(length // 2 or 1000)
            self.close_connection = True
            return None
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self.read_chunks() if chunked else self.rfile.read(length)
        arguments = match.groupdict()
        if "repo" in arguments and arguments["repo"] not in self.server.commits:
            return self.send_error_code(404, "RepoNotFound")
        return getattr(self, name)(**arguments)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # Writing

    def create_repo(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.server.commits:
            return self.send_json({"url": f"{self.server.url}/{repo}", "error": "exists"}, status=409)
        self.server.commits[repo] = []
        return self.send_json({"url": f"{self.server.url}/{repo}", "name": repo})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        metadata = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
        errors = []
        if not isinstance(metadata, dict):
            errors.append({"message": "The metadata must be a mapping."})
        elif not re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("base_model", "org/name")):
            errors.append({"message": '"base_model" must be the name of a repository.'})
        return self.send_json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def preupload(self, repo, revision):
        existing = self.server.files(repo)
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
            oid = blob_id(file["path"], existing[file["path"]]) if file["path"] in existing else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.send_json({"files": files})

    def lfs_batch(self, repo):
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            if wanted["oid"] not in self.server.objects:
                wanted["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            objects.append(wanted)
        return self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.send_error_code(400, "HashMismatch")
        self.server.objects[oid] = self.body
        return self.send_body(b"")

    def commit(self, repo, revision):
        files = dict(self.server.files(repo))
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile" and value["oid"] not in self.server.objects:
                return self.send_error_code(400, "MissingObject")
            elif key == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key != "header":
                return self.send_error_code(400, "UnknownOperation")
        self.server.commits[repo].append(files)
        sha = self.server.sha(repo)
        return self.send_json({"commitUrl": f"{self.server.url}/{repo}/commit/{sha}", "commitOid": sha})

    # Reading

    def model_info(self, repo, revision):
        siblings = [{"rfilename": path} for path in self.server.files(repo)]
        return self.send_json({"id": repo, "sha": self.server.sha(repo), "private": False, "siblings": siblings})

    def tree(self, repo, revision, folder):
        files = {
            path: content
            for path, content in self.server.files(repo).items()
            if folder is None or path.startswith(f"{folder}/")
        }
        if folder is not None and not files:
            return self.send_error_code(404, "EntryNotFound")
        return self.send_json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": blob_id(path, content)}
                for path, content in files.items()
            ]
        )

    def resolve(self, repo, revision, path):
        if revision not in ("main", self.server.sha(repo)):
            return self.send_error_code(404, "RevisionNotFound")
        content = self.server.files(repo).get(path)
        if content is None:
            return self.send_error_code(404, "EntryNotFound", {"X-Repo-Commit": self.server.sha(repo)})
        headers = {"X-Repo-Commit": self.server.sha(repo), "ETag": f'"{blob_id(path, content)}"'}
        return self.send_body(content, headers=headers)

    # Answers

    def send_json(self, data, status: int = 200):
        return self.send_body(json.dumps(data).encode(), status, {"Content-Type": "application/json"})

    def send_error_code(self, status: int, code: str, headers: dict | None = None):
        return self.send_body(b"", status, {"X-Error-Code": code, **(headers or {})})

    def send_body(self, body: bytes, status: int = 200, headers: dict | None = None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def blob_id(path: str, content: bytes) -> str:
    """The hash that the Hub knows a file by: of its content (LFS), or git's."""
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
