"""GitHub's and GitLab's APIs for comments, as far as `tfjobs report` uses them: an HTTP server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Forge:
    """What is on the request. ``answers``: status and headers of the next requests, instead of what they ask for."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.asked: list[Asked] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.writable = True
        self.links = True  # whether lists name their next page
        self.address = ""

    def add(self, body: str, **more: Any) -> None:
        """A comment that is there already; the bot of the CI wrote it unless ``more`` says otherwise."""
        author = {"user": {"login": "github-actions[bot]", "type": "Bot"}, "author_association": "NONE"}
        self.comments.append({"id": 100 + len(self.comments), "body": body, "system": False, **author, **more})

    @property
    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]

    @property
    def written(self) -> list[str]:
        """What was done to the comments."""
        return [asked.method for asked in self.asked if asked.method != "GET"]

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], Any]:
        self.asked.append(asked)
        if self.answers:
            status, headers = self.answers.pop(0)
            return status, headers, {"message": "Server Error"}
        url = urlsplit(asked.path)
        if asked.method == "GET":
            query = {key: int(values[0]) for key, values in parse_qs(url.query).items()}
            first = (query["page"] - 1) * query["per_page"]
            page = self.comments[first : first + query["per_page"]]
            more = self.links and first + query["per_page"] < len(self.comments)
            link = {"Link": f'<{self.address}{url.path}?per_page=100&page={query["page"] + 1}>; rel="next"'}
            return 200, link if more else {}, page
        if not self.writable:
            return 403, {}, {"message": "Resource not accessible by integration"}
        if asked.method == "POST":
            self.add(asked.body["body"])
            return 201, {}, {**self.comments[-1], "html_url": f"{self.address}/pull/17#issuecomment-1"}
        (found,) = [item for item in self.comments if str(item["id"]) == url.path.rpartition("/")[2]]
        if found.get("locked"):
            return 403, {}, {"message": "403 Forbidden"}
        found["body"] = asked.body["body"]
        return 200, {}, found


@contextmanager
def serving() -> Iterator[Forge]:
    forge = Forge()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, headers, value = forge.answer(Asked(self.command, self.path, dict(self.headers), body))
            data = json.dumps(value).encode()
            self.send_response(status)
            for key, text in headers.items():
                self.send_header(key, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    forge.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
