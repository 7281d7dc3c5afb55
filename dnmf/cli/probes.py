"""What ``dnmf doctor`` asks a process about itself, and lets it try.

Each function here returns a function, which travels to a worker by value, because it is made inside
another: a worker without dnmf can answer it, or say that it has no dnmf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def facts_of_process() -> Callable[[], dict[str, Any]]:
    """Return a function that describes the process in which it is called.

    Returns
    -------
    callable
        Gives a dict: ``host``, ``cores``, ``sockets``: the addresses and ports on which the process
        listens, and ``parent_sockets``: those of its parent, which is the nanny of a worker;
        ``blas``: names and threads of the BLAS libraries; ``cache``: numba's folder, or None, with
        ``cache_error``; ``folder`` and ``free``: a worker's folder and the bytes free there.
    """

    def facts() -> dict[str, Any]:
        import os
        import shutil
        import socket
        from contextlib import suppress

        import psutil

        def sockets(process: Any) -> list[tuple[str, int]]:
            # Before version 6 of psutil it has the other name.
            list_all = getattr(process, "net_connections", None) or process.connections
            found = [one.laddr for one in list_all("inet") if one.status == psutil.CONN_LISTEN]
            return sorted({(address.ip, address.port) for address in found})

        found: dict[str, Any] = {
            "host": socket.gethostname(),
            "cores": os.cpu_count(),
            "sockets": [],
            "parent_sockets": [],
            "blas": None,
            "cache": None,
            "cache_error": None,
            "folder": None,
            "free": None,
        }
        with suppress(psutil.Error):
            found["sockets"] = sockets(psutil.Process())
            found["parent_sockets"] = sockets(psutil.Process().parent())
        with suppress(ImportError):
            import numpy  # noqa: F401
            import scipy.linalg  # noqa: F401
            from threadpoolctl import threadpool_info

            found["blas"] = sorted(
                {
                    (
                        f"{one['internal_api']} {one['version']}"
                        + (f" for {kind}" if (kind := one.get("architecture")) else ""),
                        one["num_threads"],
                    )
                    for one in threadpool_info()
                    if one["user_api"] == "blas"
                }
            )
        try:
            from dnmf.numerics.compiled import cache_folder

            found["cache"] = cache_folder()
        except Exception as error:
            found["cache_error"] = str(error)
        with suppress(ImportError, ValueError, OSError):  # not on a worker
            from distributed import get_worker

            found["folder"] = get_worker().local_directory
            found["free"] = shutil.disk_usage(found["folder"]).free
        return found

    return facts


def read_block() -> Callable[..., tuple[int, float]]:
    """Return a function that reads a block of images as a pass does.

    Returns
    -------
    callable
        Takes the path of the images, the options that say where in an array they lie, and the
        number of the block; gives bytes and seconds.
    """

    def read(path: str, part: dict[str, Any], number: int) -> tuple[int, float]:
        import time

        from dnmf.cli.images import open_images

        images, _ = open_images(path, None, part)
        start = number * images.block_rows
        began = time.perf_counter()
        block = images[start : start + images.block_rows]
        return block.nbytes, time.perf_counter() - began

    return read


def write_object() -> Callable[..., tuple[float, float]]:
    """Return a function that writes, reads back and removes an object.

    Returns
    -------
    callable
        Takes the folder of an object that another process has written, which is read first, because
        without it the place is not the same; the folder of its own object; its name and its
        content. Gives the seconds that writing and reading back took.
    """

    def write(seen: str, own: str, name: str, content: bytes) -> tuple[float, float]:
        import time

        from dnmf.storage.store import ObjectStore

        if ObjectStore(seen).get(name, len(content)) != content:
            raise OSError(f"{seen}/{name} is not what was written there")
        store = ObjectStore(own)
        began = time.perf_counter()
        try:
            store.set(name, content)
            wrote = time.perf_counter()
            back = store.get(name, len(content))
            read = time.perf_counter()
        finally:
            store.delete([name])
        if back != content:
            raise OSError(f"{own}/{name} is not what was written there")
        return wrote - began, read - wrote

    return write
