"""Objects of a store behave alike in a folder and behind a URL."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dnmf.errors import AccessError
from dnmf.storage.store import InvalidObjectError, ObjectStore


class ListingsCached(MemoryFileSystem):
    """A file system that lists what it has listed before, as those of object stores do."""

    protocol = "listings-cached"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("listings-cached://"))

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True)
        found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]

    def invalidate_cache(self, path=None):
        self.dircache.pop(self._strip_protocol(path), None)


fsspec.register_implementation("listings-cached", ListingsCached, clobber=True)


@pytest.fixture(params=["folder", "file", "memory", "listings-cached"])
def store(request, tmp_path):
    """Make an empty store."""
    path = f"{tmp_path}/store"
    if request.param == "folder":
        return ObjectStore(path)
    return ObjectStore(f"{request.param}://{path}")


def test_an_object_is_read_as_it_was_written(store):
    store.set("a/b", b"one")
    store.set("a/b", memoryview(b"another"))
    store.set("empty", b"")
    assert store.get("a/b", 7) == b"another"
    assert store.get("empty", 7) == b""
    assert store.getsize("a/b") == 7


def test_a_read_has_a_bound(store):
    store.set("a/b", b"another")
    with pytest.raises(InvalidObjectError, match="is too long"):
        store.get("a/b", 6)


@pytest.mark.parametrize("key", ["nothing", "a/nothing", "nothing/b", "a/b/c"])
def test_a_missing_object(store, key):
    store.set("a/b", b"one")
    with pytest.raises(FileNotFoundError, match=f"{key} is missing"):
        store.get(key, 10)
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        store.getsize(key)


def test_names_in_a_folder(store):
    assert store.list_dir() == []
    for key in ("zarr.json", "a/zarr.json", "a/c/0/0", "ab/zarr.json"):
        store.set(key, b"x")
    assert sorted(store.list_dir()) == ["a", "ab", "zarr.json"]
    assert sorted(store.list_dir("a")) == ["c", "zarr.json"]
    assert store.list_dir("a/c") == ["0"]
    assert store.list_dir("nothing") == []
    assert store.list_dir("zarr.json") == []


def test_what_another_process_writes_is_listed(tmp_path):
    path = f"{tmp_path}/store"
    store = ObjectStore(f"listings-cached://{path}")
    other = MemoryFileSystem()
    other.pipe_file(f"{path}/a/zarr.json", b"x")
    assert store.list_dir("a") == ["zarr.json"]
    other.pipe_file(f"{path}/a/0", b"x")
    assert sorted(store.list_dir("a")) == ["0", "zarr.json"]


def test_a_folder_is_removed_and_nothing_else(store):
    for key in ("a/zarr.json", "a/c/0/0", "ab/zarr.json"):
        store.set(key, b"x")
    store.list_dir("a")
    store.delete_dir("a")
    assert store.list_dir() == ["ab"]
    assert store.list_dir("a") == []
    with pytest.raises(FileNotFoundError):
        store.get("a/c/0/0", 1)


def test_an_unknown_protocol():
    with pytest.raises(AccessError, match="no file system of fsspec"):
        ObjectStore("nobody-knows://a").get("b", 1)


def test_an_object_is_created_once(store):
    assert store.create("a/b", b"one")
    assert not store.create("a/b", b"another")
    assert store.get("a/b", 7) == b"one"
    assert store.create("a/b", b"one"), "as a request that is sent again, for its answer was lost"
    assert store.list_dir("a") == ["b"]
