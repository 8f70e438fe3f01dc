"""A download site on this machine, which misbehaves as it is told."""

import contextlib
import hashlib
import http.server
import socket
import struct
import threading
import time


class Site(http.server.ThreadingHTTPServer):
    """Serves `files`, of path to bytes, over connections that may be cut."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.etag = '"first"'
        self.ranges = True
        self.obeys_if_range = True
        self.sends_length = True
        # Bytes after which each of the next connections is cut.
        self.cuts = []
        # Whether they are cut by a reset, which loses what was not read yet.
        self.resets = False
        # Answers everything, if set.
        self.status = None
        # Headers to send otherwise, of name to value.
        self.headers = {}
        # The path and the range of every request.
        self.asked = []
        # Of what `publish` put there last, and the tokens it was asked with.
        self.commit = ""
        self.tokens = set()

    def publish(self, folder, handle="me/danet", revision="main"):
        """Offers a folder's files as a repository of the Hub."""
        contents = {
            path.name: path.read_bytes() for path in sorted(folder.iterdir())
        }
        commit = hashlib.sha1(b"".join(contents.values())).hexdigest()
        self.commit = commit
        for name, content in contents.items():
            for at in (revision, commit):
                self.files[f"/{handle}/resolve/{at}/{name}"] = content

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        # As the Hub tells a file's size and commit.
        content = self.server.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        else:
            digest = hashlib.sha256(content).hexdigest()
            self.send_header("X-Repo-Commit", self.server.commit)
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self):
        site, asked = self.server, self.headers.get("Range")
        site.tokens.add(self.headers.get("Authorization"))
        site.asked.append((self.path, asked))
        content = site.files.get(self.path)
        status = site.status or (404 if content is None else 200)
        if status != 200:
            return self._refuse(status)
        body = content
        same = self.headers.get("If-Range") == site.etag
        if asked and site.ranges and (same or not site.obeys_if_range):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self._refuse(416)
            status, body = 206, content[start:]
        self.send_response(status)
        if status == 206:
            last = len(content) - 1
            self.send_header(
                "Content-Range", f"bytes {start}-{last}/{len(content)}"
            )
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.sends_length:
            headers = {"Content-Length": str(len(body)), **site.headers}
            for name, value in headers.items():
                self.send_header(name, value)
        self.end_headers()
        whole = len(body)
        if site.cuts:
            body = body[: site.cuts.pop(0)]
        # Whoever refuses the size goes before it is all sent.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            if site.resets and len(body) < whole:
                self._reset()

    def _reset(self):
        time.sleep(0.1)
        at_once = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.connection.close()

    def _refuse(self, status):
        self.send_response(status)
        for name, value in {
            "Content-Length": "0",
            **self.server.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """Yields a `Site` that answers until the end."""
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
