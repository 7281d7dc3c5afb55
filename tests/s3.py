"""A real S3 server (moto, in a process of its own) behind a proxy that counts requests and faults.

The fixture `s3` of `conftest.py` gives a bucket of its own to each test:

    def test(s3):
        s3.put("photos/a.jpg", b"...")              # past the proxy: neither counted nor faulty
        dnmf.ingest(f"{s3.url}/photos", f"{s3.url}/corpus.zarr")
        with s3.faults(Fault.SLOW_DOWN, Fault.CUT_BODY, chance=0.05), s3.count() as seen:
            ...
        assert seen["GET"] < 20 and not seen["PutObject"]
        with s3.answers(r"zarr\\.json$", 403):       # to every GET of such a key
            ...

While it is in use, the environment (``AWS_*``) of this process and of those that it starts leads to
the proxy, so that paths need no options. Everything listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import enum
import http.client
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit
from uuid import uuid4

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until whoever has started it ends, however it ends
"""

KEYS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}

OPERATIONS = {
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "PUT": "PutObject",
    "DELETE": "DeleteObject",
}


class Fault(enum.Enum):
    """What may happen to a request; each has a chance and random numbers of its own."""

    SLOW_DOWN = "503 SlowDown, before anything is done"
    RESET = "a reset of the connection, before anything is done"
    LOST_ANSWER = "a reset of the connection, after all was done"
    SLOW_BODY = "a body that comes in pieces"
    CUT_BODY = "a body that ends in the middle"


class Proxy(ThreadingHTTPServer):
    """Pass requests on to a server, count them, and let some of them fail."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int):
        self.behind = port
        self.lock = threading.Lock()
        self.counters: list[Counter[str]] = []
        self.chances: dict[Fault, tuple[float, random.Random]] = {}
        self.fixed: list[tuple[re.Pattern[str], int, str]] = []
        self.injected: Counter[Fault] = Counter()
        super().__init__(("127.0.0.1", 0), Handler)

    def see(self, method: str, operation: str) -> set[Fault]:
        """Count a request, and draw the faults that it suffers."""
        with self.lock:
            for counter in self.counters:
                counter.update([method, operation])
            drawn = {fault for fault, (p, numbers) in self.chances.items() if numbers.random() < p}
            self.injected.update(drawn)
            return drawn

    def handle_error(self, request, client_address):
        """Say nothing of clients that have gone, as those that are killed do."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def answer(self):
        body = self.read_body()
        operation, key = describe(self.command, self.path)
        faults = self.server.see(self.command, operation)
        for pattern, status, method in self.server.fixed:
            if method == self.command and pattern.search(key):
                return self.refuse(status)
        if Fault.SLOW_DOWN in faults:
            return self.refuse(503)
        if Fault.RESET in faults:
            return self.reset()
        status, headers, content = self.ask(body)
        if Fault.LOST_ANSWER in faults:
            return self.reset()
        return self.send(status, headers, content, faults)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def ask(self, body: bytes):
        """Ask the server itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        hop = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        try:
            connection.request(
                self.command, self.path, body, {**headers, "Content-Length": str(len(body))}
            )
            found = connection.getresponse()
            return found.status, found.getheaders(), found.read()
        finally:
            connection.close()

    def send(self, status, headers, content: bytes, faults: set[Fault]) -> None:
        cut = Fault.CUT_BODY in faults and len(content) > 1
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = (
            dict(headers).get("Content-Length", "0") if self.command == "HEAD" else len(content)
        )
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        if Fault.SLOW_BODY in faults:
            step = max(1, -(-len(content) // 8))
            for at in range(0, len(content), step):
                time.sleep(0.02)
                self.wfile.write(content[at : at + step])
            return
        self.wfile.write(content)

    def refuse(self, status: int) -> None:
        code, words = {
            403: ("AccessDenied", "Access Denied"),
            500: ("InternalError", "We encountered an internal error. Please try again."),
            503: ("SlowDown", "Please reduce your request rate."),
        }[status]
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words}</Message></Error>"
        body = b"" if self.command == "HEAD" else xml.encode()
        self.send(status, [("Content-Type", "application/xml")], body, set())

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.wfile = self.rfile  # there is nothing to flush any more


def describe(method: str, target: str) -> tuple[str, str]:
    """Return the name of an operation of S3, and the key of its object."""
    url = urlsplit(target)
    _, _, key = unquote(url.path).lstrip("/").partition("/")
    query = parse_qs(url.query, keep_blank_values=True)
    if "delete" in query:
        return "DeleteObjects", key
    if {"uploads", "uploadId"} & query.keys():
        return "Multipart", key
    if key:
        return OPERATIONS.get(method, method), key
    return ("ListObjects" if method == "GET" and "location" not in query else "Bucket"), key


class S3:
    """A bucket of an S3 server, reached through the proxy."""

    def __init__(self, proxy: Proxy, bucket: str):
        self.proxy, self.bucket = proxy, bucket
        self.url = f"s3://{bucket}"
        self.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}
        self.options = {
            "key": KEYS["AWS_ACCESS_KEY_ID"],
            "secret": KEYS["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": self.endpoint,
        }
        """Options of s3fs, for what is to be told them."""

    @contextmanager
    def faults(self, *faults: Fault, chance: float = 0.05, seed: int = 0) -> Iterator[Counter]:
        """Let requests suffer faults (all kinds by default); give how many of each there were."""
        kinds = faults or tuple(Fault)
        self.proxy.injected.clear()
        self.proxy.chances = {kind: (chance, random.Random(f"{seed} {kind}")) for kind in kinds}
        try:
            yield self.proxy.injected
        finally:
            self.proxy.chances = {}

    @contextmanager
    def answers(self, pattern: str, status: int, method: str = "GET") -> Iterator[None]:
        """Answer requests for keys that match a pattern by 403, 500 or 503; a list has no key."""
        entry = (re.compile(pattern), status, method)
        self.proxy.fixed.append(entry)
        try:
            yield
        finally:
            self.proxy.fixed.remove(entry)

    @contextmanager
    def count(self) -> Iterator[Counter]:
        """Count requests by method (``GET``) and by operation (``ListObjects``)."""
        counter: Counter[str] = Counter()
        with self.proxy.lock:
            self.proxy.counters.append(counter)
        try:
            yield counter
        finally:
            with self.proxy.lock:  # by identity: two that are empty are equal
                self.proxy.counters = [one for one in self.proxy.counters if one is not counter]

    def put(self, key: str, content: bytes = b"precious") -> None:
        """Write an object, past the proxy."""
        self._ask("PUT", quote(key), content)

    def get(self, key: str) -> bytes:
        """Read an object, past the proxy."""
        return self._ask("GET", quote(key))

    def delete(self, key: str) -> None:
        """Remove an object, past the proxy."""
        self._ask("DELETE", quote(key))

    def keys(self, prefix: str = "") -> list[str]:
        """List the keys of all objects of the bucket that begin with a prefix, past the proxy."""
        found: list[str] = []
        after = ""
        while True:
            query = (
                f"?list-type=2&encoding-type=url&prefix={quote(prefix)}&start-after={quote(after)}"
            )
            listed = self._ask("GET", query).decode()
            more = [unquote(key) for key in re.findall(r"<Key>(.*?)</Key>", listed)]
            found += more
            if "<IsTruncated>true" not in listed.replace("True", "true"):
                return found
            after = more[-1]

    def content(self, prefix: str = "") -> dict[str, bytes]:
        """Read all objects whose keys begin with a prefix, past the proxy."""
        return {key: self.get(key) for key in self.keys(prefix)}

    def _ask(self, method: str, key: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.behind, timeout=60)
        try:
            sign = "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, Signature=s"
            target = f"/{self.bucket}/{key}".rstrip("/")
            connection.request(method, target, body, {"Authorization": sign})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {key}: {answer.status} {content[:500]!r}"
        return content


@contextmanager
def s3_proxy() -> Iterator[Proxy]:
    """Start the server and the proxy."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            port = server.stdout.readline()
            assert port, "the S3 server did not start: pip install '.[slow]'"
            with Proxy(int(port)) as proxy:
                thread = threading.Thread(target=proxy.serve_forever, daemon=True)
                thread.start()
                try:
                    yield proxy
                finally:
                    proxy.shutdown()
                    thread.join()
        finally:
            server.kill()


@contextmanager
def bucket_of(proxy: Proxy) -> Iterator[S3]:
    """Make a bucket, and lead this process and those that it starts to it."""
    s3 = S3(proxy, f"bucket-{uuid4().hex[:8]}")
    s3.put("", b"")
    before = {name: os.environ.get(name) for name in s3.environment}
    os.environ.update(s3.environment)
    try:
        yield s3
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def running() -> Iterator[S3]:
    """Start everything, for a script; `conftest.py` has the fixtures for tests."""
    with s3_proxy() as proxy, bucket_of(proxy) as s3:
        yield s3
    forget_file_systems()


def forget_file_systems() -> None:
    """Forget the file systems of s3fs, which keep the endpoint that they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
