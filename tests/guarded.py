"""Files behind URLs ``guarded://``, which nobody may touch without the token."""

from __future__ import annotations

import fsspec
from fsspec.implementations.local import LocalFileSystem

TOKEN = "marker-of-a-secret-7c1f"
OPTIONS = {"token": TOKEN}


class GuardedFiles(LocalFileSystem):
    """Files of this machine, so that processes share them."""

    protocol = ("guarded",)
    root_marker = "/"

    def __init__(self, token="", **options):
        super().__init__(auto_mkdir=True, **options)
        self.token = token

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("guarded://"))

    def _require_token(self):
        if self.token != TOKEN:
            raise PermissionError(f"the token {self.token} is wrong")

    def ls(self, *args, **options):
        self._require_token()
        return super().ls(*args, **options)

    def info(self, *args, **options):
        self._require_token()
        return super().info(*args, **options)

    def pipe_file(self, path, value, mode="overwrite", **options):
        # as a file that appears as a whole: AbstractFileSystem would show it while it grows
        return super().pipe_file(path, value, mode, **options)

    def _open(self, *args, **options):
        self._require_token()
        return super()._open(*args, **options)


def register():
    """Make the protocol known to this process; also to be run by workers."""
    fsspec.register_implementation("guarded", GuardedFiles, clobber=True)
