"""Stores made to do harm, and a process of little memory that opens them all; see test_hostile.py.

As a script: ``python hostile.py FOLDER`` opens every store in a folder and prints a line of JSON
for each: how it ended, after how many seconds, and how much more memory the process has needed.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import google_crc32c
import numpy as np

SPARE = 256 * 2**20
"""Memory, in bytes, that the process may need beyond what the imports took."""

BOMB = 512 * 2**20


def edit(path: Path, change) -> None:
    """Change metadata in place."""
    metadata = json.loads(path.read_text())
    changed = change(metadata)
    path.write_text(json.dumps(metadata if changed is None else changed))


def put(**values):
    """Make a change of metadata that sets keys; ``a__b`` is b in a."""

    def change(metadata):
        for name, value in values.items():
            *above, last = name.split("__")
            place = metadata
            for part in above:
                place = place[part]
            place[last] = value

    return change


def codecs(*names):
    return put(codecs=[{"name": name, "configuration": {}} for name in names])


def record(**values):
    """Make a change of a record, with a right checksum if that can be computed."""

    def change(metadata):
        from dnmf.storage.metadata import with_checksum as seal

        put(**{f"attributes__dnmf__{name}": value for name, value in values.items()})(metadata)
        metadata["attributes"]["dnmf"] = seal(metadata["attributes"]["dnmf"])

    return change


def inside(name, change):
    """Make a change of what the root's metadata say of an array."""

    def change_array(metadata):
        arrays = metadata["consolidated_metadata"]["metadata"]
        changed = change(arrays[name])
        arrays[name] = arrays[name] if changed is None else changed

    return change_array


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


def with_checksum(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


def blosc_bomb() -> bytes:
    from numcodecs.blosc import Blosc

    return with_checksum(Blosc("zstd", 9).encode(np.zeros(BOMB, np.uint8)))


def zstd_bomb() -> bytes:
    from numcodecs.zstd import Zstd

    return bytes(Zstd(9).encode(np.zeros(BOMB, np.uint8)))


def claim(length: int, content: bytes) -> bytes:
    """Let the header of a chunk claim another length than it has, under a right checksum."""
    body = bytearray(content[:-4])
    body[12:16] = length.to_bytes(4, "little")
    return with_checksum(bytes(body))


def forge(store: Path, chunk: str, content: bytes) -> None:
    """Put a chunk in place, and let the manifest say that it belongs."""
    (store / chunk).write_bytes(content)
    manifest = store / "manifests/1/c/0/0"
    lines = np.frombuffer(manifest.read_bytes()[:-4], np.int64).copy()
    lines[1] = len(content)
    manifest.write_bytes(with_checksum(lines.tobytes()))
    checksum = google_crc32c.value(lines.tobytes())
    edit(store / "zarr.json", record(generations__manifest_crc32c=[checksum]))


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def plug(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)
    os.chdir(here)


def link_to(target: str):
    def link(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(target)

    return link


def link_aside(path: Path) -> None:
    """Move an object out of the store and leave a link."""
    aside = Path(str(path).replace("/stores/", "/aside/"))
    aside.parent.mkdir(parents=True)
    shutil.move(path, aside)
    path.symlink_to(aside)


def version_2(store: Path, witness: Path) -> None:
    """Make a Zarr v2 array of pickled objects of what is there."""
    shutil.rmtree(store)
    store.mkdir()
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / ".zattrs").write_text('{"dnmf": {"format": "dnmf-corpus", "version": 1}}')
    array = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None,
        "order": "C", "compressor": None, "filters": [{"id": "pickle"}],
    }  # fmt: skip
    (store / ".zarray").write_text(json.dumps(array))
    (store / "0").write_bytes(pickle.dumps(Payload(witness)))


METADATA = {
    "shape of 10^15": put(shape=[10**15, 15]),
    "shape of 10^30": put(shape=[10**30, 15]),
    "negative shape": put(shape=[-40, 15]),
    "fractional shape": put(shape=[40.5, 15]),
    "boolean shape": put(shape=[True, True]),
    "shape of no axes": put(shape=[]),
    "shape of 10^5 axes": put(shape=[1] * 10**5),
    "no shape": put(shape=None),
    "chunks of terabytes": put(chunk_grid__configuration__chunk_shape=[10**12, 15]),
    "chunks of 3 GiB": put(chunk_grid__configuration__chunk_shape=[3 * 2**30 // 15, 15]),
    "chunks of nothing": put(chunk_grid__configuration__chunk_shape=[0, 15]),
    "chunks along pixels": put(chunk_grid__configuration__chunk_shape=[16, 5]),
    "an odd chunk grid": put(chunk_grid__name="rectilinear"),
    "odd chunk keys": put(chunk_key_encoding__name="v2"),
    "codec pickle": codecs("bytes", "numcodecs.pickle"),
    "codec zstd": codecs("bytes", "zstd"),
    "codec gzip": codecs("bytes", "gzip"),
    "codec transpose": codecs("transpose", "bytes"),
    "codec sharding": codecs("sharding_indexed"),
    "an unknown codec": codecs("bytes", "no-such-codec"),
    "10^5 codecs": codecs(*["bytes"] * 10**5),
    "no codecs": put(codecs=[]),
    "codecs that are a number": put(codecs=5),
    "blosc of an odd kind": put(
        codecs=[{"name": "bytes"}, {"name": "blosc", "configuration": {"cname": [1]}}]
    ),
    "big-endian bytes": put(codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]),
    "objects": put(data_type="object"),
    "strings": put(data_type="string"),
    "bytes of variable length": put(data_type="variable_length_bytes"),
    "complex numbers": put(data_type="complex128"),
    "raw bits": put(data_type="r999999999"),
    "a structured type": put(data_type={"name": "struct", "configuration": {}}),
    "storage transformers": put(storage_transformers=[{"name": "run-me"}]),
    "an unknown key": put(run_me={"must_understand": True}),
    "another node type": put(node_type="program"),
    "Zarr version 2": put(zarr_format=2),
    "attributes that are a list": put(attributes=[1]),
    "metadata that is a list": lambda metadata: [metadata],
    "metadata that is a number": lambda metadata: 7,
}

TEXTS = {
    "no JSON": b"<html>",
    "no UTF-8": b"\xff\xfe{}",
    "nested lists": b"[" * 10**6,
    "nested objects": b'{"a":' * 10**6,
    "10^6 lists": b"[" + b"[]," * 10**6 + b"[]]",
    "a number of 10^6 digits": b"9" * 10**6,
    "20 MiB of spaces": b" " * (20 * 2**20) + b"{}",
}

RECORDS = {
    "a record that is a list": put(attributes__dnmf=[1]),
    "a record that is text": put(attributes__dnmf="run me"),
    "an empty record": put(attributes__dnmf={}),
    "a format that is a number": record(format=5),
    "version -1": record(version=-1),
    "version 10^30": record(version=10**30),
    "version as text": record(version="1"),
    "version true": record(version=True),
    "no version": record(version=None),
}

CORPUS_RECORDS = {
    "10^15 images": record(generations__images=[10**15]),
    "images as text": record(generations__images="40"),
    "images that are negative": record(generations__images=[-40]),
    "generations that are none": record(generations=None),
    "columns that are text": record(columns="label"),
    "columns elsewhere": record(columns=["../../etc"]),
    "columns that are not there": record(columns=["label"]),
    "coords that are a list": record(coords=[1]),
    "axes as text": record(axes="yx"),
    "rows that fold into more": record(rows={"axes": ["y", "x"], "shape": [10**9, 10**9]}),
    "rows as text": record(rows="512x512"),
    "choices as text": record(choices="run me"),
    "image shape of 10^15": record(image_shape=[10**15, 15]),
    "negative image shape": record(image_shape=[-3, -5]),
    "image shape of 10^5 axes": record(image_shape=[1] * 10**5),
    "image shape of no axes": record(image_shape=[]),
    "dtype object": record(dtype="object"),
    "dtype list": record(dtype=[1]),
    "negative checksum": record(generations__manifest_crc32c=[-1]),
    "checksum of 10^30": record(generations__manifest_crc32c=[10**30]),
    "checksum as text": record(generations__manifest_crc32c="1"),
    "an altered record": put(attributes__dnmf__rejects=7),
    "consolidated metadata": put(consolidated_metadata={"metadata": {"pixels": {}}}),
}

WEIGHTS_RECORDS = {
    "negative fingerprint": record(corpus_fingerprint=-1),
    "fingerprint of 10^30": record(corpus_fingerprint=10**30),
    "fingerprint as text": record(corpus_fingerprint="1"),
    "checksum as text": record(generations__manifest_crc32c="1"),
    "rows as text": record(rows="512x512"),
    "an altered record": put(attributes__dnmf__corpus_fingerprint=1),
}


def sealed(**values):
    """Make a change of the record of a pass, with a right checksum."""

    def change(metadata):
        from dnmf.storage.metadata import with_checksum as seal

        put(**values)(metadata["attributes"]["dnmf"])
        metadata["attributes"]["dnmf"] = seal(metadata["attributes"]["dnmf"])

    return change


MODEL_RECORDS = {
    "a pass of 10^15 pixels": sealed(
        fit__X__shape=[40, 10**15], fit__X__image_shape=[10**15],
        shapes={"H": [3, 10**15], "state": [6 * 10**15 + 3]},
    ),
    "shapes of 10^15": sealed(shapes={"H": [10**15, 15]}),
    "shapes as text": sealed(shapes="3x15"),
    "weights elsewhere": sealed(weights="../../corpus"),
    "weights that are a list": sealed(weights=["weights-000001-00000000"]),
    "a fit that is text": sealed(fit="run me"),
    "a fit with more": sealed(fit__run_me="now"),
    "no images": sealed(fit__X__shape=[0, 15]),
    "blocks of no images": sealed(fit__X__block_rows=0),
    "images of another shape": sealed(fit__X__image_shape=[10**6, 10**9]),
    "weights of objects": sealed(fit__X__compute_dtype="object"),
    "negative components": sealed(fit__n_components=-3),
    "no parameters": sealed(fit__parameters={}),
    "a parameter that is a list": sealed(fit__parameters__init=[1]),
    "a setting that is none": sealed(fit__settings__checkpoint="/etc"),
    "losses that are text": sealed(losses="0.5"),
    "losses that are lists": sealed(losses=[[1]]),
    "a loss of 10^400": sealed(losses=[10**400]),
    "divergence as text": sealed(divergence="0"),
    "accepted as text": sealed(accepted="yes"),
    "checksums of nothing": sealed(crc32c={}),
    "a checksum that is negative": sealed(crc32c__H=-1),
    "a stop of 10^6 letters": sealed(stop_reason="x" * 10**6),
    "an unknown field": sealed(run_me="now"),
}  # fmt: skip

THINGS = {
    "a pipe": pipe,
    "a folder": folder,
    "a socket": plug,
    "a link to /etc/passwd": link_to("/etc/passwd"),
    "a link to /dev/zero": link_to("/dev/zero"),
    "a link to nothing": link_to("/no/such/file"),
    "a link to itself": lambda path: link_to(path.name)(path),
    "a link to its own content aside": link_aside,
}


def all_of_10_15(store: Path) -> None:
    """Let everything in a corpus agree on 10^15 images."""
    _grow(store, 10**15, 16)


def many_blocks(store: Path) -> None:
    """Let a corpus have so many blocks that its manifest would take 1.9 GB."""
    _grow(store, 60_000_000, 1)


def _grow(store: Path, n: int, rows: int) -> None:
    for name, shape in (("pixels", [3, 5]), ("id", [])):
        grown = put(shape=[n, *shape], chunk_grid__configuration__chunk_shape=[rows, *shape])
        edit(store / "zarr.json", inside(name, grown))
    edit(store / "zarr.json", record(generations__images=[n]))


def opening(path: str):
    """Open and read a store, and check it; by its name, what it is said to be."""
    import dnmf
    from dnmf.cli.describe import describe
    from dnmf.errors import DnmfError
    from dnmf.io.verify import verify
    from dnmf.storage.checkpoint.checkpoint import open_checkpoint
    from dnmf.storage.weights import open_weights

    def read() -> None:
        if path.split("/")[-1].startswith("model"):
            checkpoint = open_checkpoint(path)
            for index in range(len(checkpoint.checksums)):
                checkpoint.read_weights(index)
        elif path.split("/")[-1].startswith("weights"):
            weights = open_weights(path)
            assert weights.component_names
            for index in range(weights.n_blocks):
                weights.read_block(index)
                weights.block_ids(index)
        else:
            corpus = dnmf.open_corpus(path)
            for index in range(corpus.n_blocks):
                corpus.read_block(index)
                corpus.block_ids(index)

    def ends(act) -> str:
        try:
            act()
        except DnmfError as error:
            return f"{type(error).__name__}: {error}"
        except BaseException as error:
            return f"unnamed {type(error).__name__}: {error}"
        return "read"

    def findings() -> None:
        if found := verify(path).findings:
            raise DnmfError(found[0].what)

    return ends(read), ends(findings), ends(lambda: describe(path))


def peak() -> int:
    """Give the most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's, too
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main(folder: str) -> None:
    import dnmf.cli.describe
    import dnmf.io.verify

    assert dnmf.cli.describe
    assert dnmf.io.verify
    threading.stack_size(2**18)  # eight threads of 8 MiB would be most of what is left
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sorted(Path(folder).iterdir()):
        signal.alarm(10)  # a hang ends the process, and with it the test
        began, before = time.monotonic(), peak()
        ends = opening(str(path))
        facts = [path.name, ends, time.monotonic() - began, peak() - before]
        print(json.dumps(facts), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
