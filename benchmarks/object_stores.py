"""fsspec beside obstore on an S3 server: blocks of 16 MiB and many small objects.

    python benchmarks/object_stores.py [--objects 10000]

Needs s3fs, obstore and moto[server]. The server is moto, in a process of its own on the loopback
interface, which takes most of the time: the ratio says which client is the lighter one.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from common import about

BLOCK = bytes(2**24)
SMALL = bytes(1000)
AT_ONCE = (1, 32)
BUCKET = "bench"
KEYS = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}


@contextmanager
def server() -> Iterator[str]:
    """Run moto in a process of its own, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def fsspec_calls(url: str) -> dict[str, Callable[..., Any]]:
    """Return what fsspec calls to write, read, list and delete."""
    import s3fs

    fs = s3fs.S3FileSystem(
        key="k", secret="s", client_kwargs={"endpoint_url": url}, use_listings_cache=False
    )
    fs.mkdir(BUCKET)
    return {
        "write": lambda key, content: fs.pipe_file(f"{BUCKET}/{key}", content),
        "read": lambda key: fs.cat_file(f"{BUCKET}/{key}"),
        "list": lambda prefix: len(fs.find(f"{BUCKET}/{prefix}")),
        "delete": lambda keys: fs.rm([f"{BUCKET}/{key}" for key in keys]),
    }


def obstore_calls(url: str) -> dict[str, Callable[..., Any]]:
    """Return what obstore calls to do the same."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=url,
        region="us-east-1",
        access_key_id="k",
        secret_access_key="s",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    return {
        "write": lambda key, content: obstore.put(store, key, content),
        "read": lambda key: obstore.get(store, key).bytes(),
        "list": lambda prefix: sum(map(len, obstore.list(store, f"{prefix}/"))),
        "delete": lambda keys: obstore.delete(store, keys),
    }


def seconds(function: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> float:
    """Call a function for each item, some at once, and return the seconds for one."""
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        for result in pool.map(function, items):
            del result
    return (time.perf_counter() - began) / len(items)


def measure(calls: dict[str, Callable[..., Any]], name: str, n_objects: int) -> dict[str, float]:
    """Return the milliseconds of each kind of call."""
    found = {}
    for at_once in AT_ONCE:
        blocks = [f"{name}-blocks/{i}" for i in range(16 * (1 + (at_once > 1)))]
        n = n_objects if at_once > 1 else n_objects // 10
        small = [f"{name}-small-{at_once}/{i:06d}" for i in range(n)]
        for what, keys, content in (("block", blocks, BLOCK), ("object", small, SMALL)):
            for verb in ("write", "read"):
                extra = (content,) if verb == "write" else ()
                call = lambda key, verb=verb, extra=extra: calls[verb](key, *extra)  # noqa: E731
                found[f"{verb} a {what}, {at_once} at once"] = 1e3 * seconds(call, keys, at_once)
        if at_once > 1:
            for verb, given in (("list", small[0].split("/")[0]), ("delete", small)):
                began = time.perf_counter()
                calls[verb](given)
                found[f"{verb} {n:,} objects"] = 1e3 * (time.perf_counter() - began)
        calls["delete"](blocks)
    return found


def main() -> None:
    """Print the milliseconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=10_000)
    n_objects = parser.parse_args().objects
    print(json.dumps(about(), indent=1))
    with server() as url:
        ours = measure(fsspec_calls(url), "fsspec", n_objects)
        theirs = measure(obstore_calls(url), "obstore", n_objects)
    print(f"{'':32} {'fsspec':>10} {'obstore':>10}  ms, and the ratio")
    for name, time_of in ours.items():
        print(f"{name:32} {time_of:10.2f} {theirs[name]:10.2f}  {time_of / theirs[name]:.2f}")


if __name__ == "__main__":
    main()
