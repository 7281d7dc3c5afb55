"""Images behind real servers: S3 of moto and HTTP, read in parallel, into a folder and a bucket."""

from __future__ import annotations

import functools
import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image

import dnmf
from dnmf.errors import IngestError

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (70, 5, 4), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def check(corpus):
    assert corpus.ids == [f"f{i}.png" for i in range(70)]
    assert (corpus.images(slice(None)) == IMAGES).all()
    assert dnmf.verify(corpus.path).findings == []


@pytest.fixture
def images(s3):
    """Put the images into a bucket, and give its URL."""
    for i, image in enumerate(IMAGES):
        s3.put(f"in/f{i}.png", png(image))
    return f"{s3.url}/in"


class TestS3:
    def test_a_folder(self, images, tmp_path):
        check(dnmf.ingest(images, tmp_path / "c", block_rows=9))

    def test_on_a_cluster(self, s3, images, tmp_path, client):
        options = s3.options  # of workers that were started with another environment
        check(dnmf.ingest(images, tmp_path / "c", block_rows=9, storage_options=options))

    def test_the_secret_is_in_no_file(self, s3, images, tmp_path):
        from dnmf.io.ingest import plan_ingest

        options = {**s3.options, "secret": "very-secret"}
        plan_ingest(images, tmp_path / "c", storage_options=options)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert not any(b"very-secret" in path.read_bytes() for path in files)

    def test_nothing_there(self, s3, tmp_path):
        with pytest.raises(IngestError, match=r"s3://.*/nothing does not exist"):
            dnmf.ingest(f"{s3.url}/nothing", tmp_path / "c")

    def test_a_dead_endpoint(self, images, tmp_path):
        dead = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
        with pytest.raises(IngestError, match=r"s3://.*/in cannot be looked at"):
            dnmf.ingest(images, tmp_path / "c", storage_options=dead)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_list_of_https_urls(tmp_path):
    pytest.importorskip("aiohttp", reason="pip install '.[slow]'")
    (tmp_path / "in").mkdir()
    for i, image in enumerate(IMAGES):
        (tmp_path / f"in/f{i}.png").write_bytes(png(image))
    handler = functools.partial(_Quiet, directory=tmp_path / "in")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_address[1]}"
            urls = [f"{base}/f{i}.png" for i in range(70)]
            check(dnmf.ingest(urls, tmp_path / "c", block_rows=9))
            (tmp_path / "list.csv").write_text(
                "url,id\n" + "".join(f"{url},f{i}.png\n" for i, url in enumerate(urls))
            )
            check(dnmf.ingest(tmp_path / "list.csv", tmp_path / "d", block_rows=9))
        finally:
            server.shutdown()
            thread.join()
