"""A stand-in for a W&B server on the loopback, which keeps what it is sent, and fails on request.

It speaks as much of the protocol as the client needs for runs, their files and artifacts, and saved views: GraphQL by
the name of the operation, the stream of a run's files by offset, and uploads by PUT.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "us"
HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


class Standin:
    """The server; `runs`, `artifacts`, `views` and `uploads` are what it was sent."""

    def __init__(self) -> None:
        self.runs = defaultdict[str, dict[str, Any]](lambda: {"files": defaultdict(dict), "complete": None})
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.asked, self.unknown = Counter[str](), list[str]()
        self.failing: dict[str, list[int]] = {}
        """Status codes to answer with, once each, by kind of request: an operation, `stream` or `upload`."""
        self.slow: dict[str, float] = {}
        """Seconds to wait before an answer, by kind of request."""
        self.lock, self.port, self.server = threading.Lock(), 0, None

    def __enter__(self) -> Standin:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens; a second time, at the same address."""
        standin = self

        class Handler(_Handler):
            of = standin

        self.server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Goes down: connections are refused from now on."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server.cut()
            self.server = None

    @contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        yield
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        """The environment in which the client talks to this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows of a run in order, without the client's own columns."""
        lines = self.runs[run]["files"][HISTORY]
        rows = [json.loads(lines[number]) for number in sorted(lines)]
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]

    def steps(self, run: str) -> list[int]:
        """The client's own count of a run's rows."""
        lines = self.runs[run]["files"][HISTORY]
        return [json.loads(lines[number])["_step"] for number in sorted(lines)]

    def summary(self, run: str) -> dict[str, Any]:
        lines = self.runs[run]["files"][SUMMARY]
        return json.loads(lines[max(lines)]) if lines else {}

    def config(self, run: str) -> dict[str, Any]:
        return {key: item["value"] for key, item in json.loads(self.runs[run]["config"]).items()}

    def committed(self, kind: str) -> list[dict[str, Any]]:
        """The artifacts of a type that arrived whole."""
        return [a for a in self.artifacts.values() if a["committed"] and a["artifactTypeName"] == kind]

    def fault(self, kind: str) -> int | None:
        with self.lock:
            self.asked[kind] += 1
            codes = self.failing.get(kind) or self.failing.get("*") or []
            return codes.pop(0) if codes else None

    def graphql(self, name: str, of: dict[str, Any]) -> Any:
        """The answer to an operation."""
        with self.lock:
            answer = getattr(self, f"_{name.lower()}", None)
            if answer is None:
                self.unknown.append(name)
                return {}
            return answer(of)

    def stream(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        """Takes lines of a run's files, each at its offset: what is sent again is there once."""
        with self.lock:
            found = self.runs[run]
            for name, part in (body.get("files") or {}).items():
                for number, line in enumerate(part["content"]):
                    found["files"][name][part["offset"] + number] = line
            if body.get("complete") is not None:
                found["complete"], found["exitcode"] = body["complete"], body.get("exitcode")
        return {"exitcode": None, "limits": {}}

    def _viewer(self, of: dict[str, Any]) -> Any:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        who = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "email": "us@example.org", "flags": "{}"}
        return {"viewer": {**who, "teams": teams, "admin": False, "apiKeys": {"edges": []}}}

    def _serverfeaturesquery(self, of: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _organizationcoreweaveorganizationid(self, of: dict[str, Any]) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _upsertbucket(self, of: dict[str, Any]) -> Any:
        inserted = of.get("name") not in self.runs
        run = self.runs[of.get("name") or of["id"]]
        run |= {key: value for key, value in of.items() if value is not None}
        run["upserts"] = run.get("upserts", 0) + 1
        entity = {"id": "RW50aXR5", "name": of.get("entity") or ENTITY}
        project = {"id": "UHJvamVjdA==", "name": run.get("project"), "entity": entity}
        bucket = {
            "id": f"id-{run['name']}", "name": run["name"], "displayName": run.get("displayName"),
            "description": None, "config": run.get("config"), "sweepName": None, "project": project,
            "historyLineCount": len(run["files"][HISTORY]),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _runresumestatus(self, of: dict[str, Any]) -> Any:
        entity = {"id": "RW50aXR5", "name": of.get("entity") or ENTITY}
        model = {"id": "UHJvamVjdA==", "name": of["project"], "entity": entity, "bucket": None}
        if of["name"] in self.runs:
            run = self.runs[of["name"]]
            history, events = (run["files"][name] for name in (HISTORY, "wandb-events.jsonl"))
            tail = [history[max(history)]] if history else []
            model["bucket"] = {
                "id": f"id-{of['name']}", "name": of["name"], "displayName": run.get("displayName"),
                "summaryMetrics": json.dumps(self.summary(of["name"])), "logLineCount": 0,
                "historyLineCount": len(history), "eventsLineCount": len(events),
                "historyTail": json.dumps(tail), "eventsTail": "[]", "config": run.get("config", "{}"),
                "tags": run.get("tags"), "notes": None, "wandbConfig": json.dumps({"t": 1}),
            }  # fmt: skip
        return {"model": model}

    def _createrunfiles(self, of: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{of['run']}/{name}"} for name in of["files"]]
        return {"createRunFiles": {"runID": of["run"], "uploadHeaders": [], "files": files}}

    def _artifacttype(self, of: dict[str, Any]) -> Any:
        return {"project": {"artifactType": {"name": "any"}, "artifact": None}}

    def _createartifact(self, of: dict[str, Any]) -> Any:
        of, number = of["input"], f"artifact-{len(self.artifacts)}"
        self.artifacts[number] = {**of, "committed": False}
        sequence = {"id": "sequence", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def _createartifactmanifest(self, of: dict[str, Any]) -> Any:
        url = f"{self.url}/put/{of['artifactID']}/manifest.json"
        file = {"id": f"file-{of['artifactID']}", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{of['artifactID']}", "file": file}}}

    def _updateartifactmanifest(self, of: dict[str, Any]) -> Any:
        return self._createartifactmanifest({"artifactID": of["artifactManifestID"].removeprefix("manifest-")})

    def _createartifactfiles(self, of: dict[str, Any]) -> Any:
        edges = []
        for asked in of["input"]["artifactFiles"]:
            path = f"{asked['artifactID']}/{asked['name']}"
            node = {"storagePath": path, "uploadUrl": f"{self.url}/put/{path}", "uploadHeaders": []}
            edges.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": asked["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commitartifact(self, of: dict[str, Any]) -> Any:
        self.artifacts[of["artifactID"]]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": of["artifactID"], "digest": "d"}}}

    def _upsertview2(self, of: dict[str, Any]) -> Any:
        self.views.append({key: value for key, value in of.items() if value is not None})
        project = {"id": "UHJvamVjdA==", "name": of.get("projectName"), "entityName": of.get("entityName")}
        view = {"id": "Vmlldzox", "name": of.get("name"), "displayName": of.get("displayName"), "project": project}
        view |= {"spec": of.get("spec"), "type": of.get("type"), "description": "", "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": True}}

    _upsertview = _upsertview2

    def _getdefaultentity(self, of: dict[str, Any]) -> Any:
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY}}

    def _getprojects(self, of: dict[str, Any]) -> Any:
        return {"models": {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _createproject(self, of: dict[str, Any]) -> Any:
        return {"result": {"project": {"id": "UHJvamVjdA=="}, "model": None, "inserted": True}}

    def _artifactbyid(self, of: dict[str, Any]) -> Any:
        given, project = self.artifacts[of["id"]], {"id": "p", "internalId": "p", "entity": {"name": ENTITY}}
        sequence = {"name": given["artifactCollectionName"], "project": {**project, "name": given["projectName"]}}
        artifact = {
            "id": of["id"], "artifactSequence": sequence, "versionIndex": 0, "description": None, "tags": [],
            "artifactType": {"name": given["artifactTypeName"]}, "metadata": given["metadata"], "size": 1,
            "ttlDurationSeconds": 0, "ttlIsInherited": False, "historyStep": 0, "digest": given["digest"],
            "state": "COMMITTED" if given["committed"] else "PENDING", "commitHash": "c", "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": artifact}

    def _projectinternalid(self, of: dict[str, Any]) -> Any:
        return {"project": {"internalId": base64.b64encode(b"ProjectInternalId:1").decode()}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open = set[Any]()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        """Ends connections that clients keep open."""
        for request in self.open:
            try:
                request.shutdown(2)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: the client resets sockets that it does not use, and leaves slow answers."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: Standin

    def do_POST(self) -> None:  # the name that the base class asks for
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given = json.loads(body or b"{}")
        if self.path.startswith("/graphql"):
            found = re.search(r"(?:query|mutation)\s+(\w+)", given.get("query", ""))
            kind = given.get("operationName") or (found[1] if found else "nameless")
            self.answer(kind, lambda: {"data": self.of.graphql(kind, given.get("variables") or {})})
        else:
            run = self.path.split("/")[-2]
            self.answer("stream", lambda: self.of.stream(run, given))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer("upload", lambda: self.of.uploads.update({self.path.removeprefix("/put/"): body}) or {})

    def do_GET(self) -> None:
        self.answer("get", dict)

    def answer(self, kind: str, act: Any) -> None:
        if wait := self.of.slow.get(kind, self.of.slow.get("*", 0)):
            time.sleep(wait)
        code, content = self.of.fault(kind), b'{"error": "as asked for"}'
        if code is None:
            try:  # an exception would drop the connection, and the client would try again for hours
                code, content = 200, json.dumps(act()).encode()
            except Exception as error:
                self.of.unknown.append(f"{kind}: {error!r}")
                code = 400
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
