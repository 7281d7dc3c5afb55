"""The command ``dnmf ingest``."""

from __future__ import annotations

import json
import re
from typing import Any

import click

import dnmf
from dnmf.cli.options import (
    AT_LEAST_1,
    PATH,
    cluster_options,
    force_option,
    json_option,
)
from dnmf.cli.paths import check_sources
from dnmf.cli.pixel_options import choice_options
from dnmf.cli.progress import count_progress, print_line
from dnmf.storage.codecs import CODECS


class Part(click.ParamType[tuple[int, int]]):
    """Part of an ingest, written ``I/N``."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return the number of the part and of all parts."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value))
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r} is no part; write 1/16 for the first of 16", param, ctx)
        return int(found[1]), int(found[2])


class Share(click.ParamType[float]):
    """Number of images, or a share of them, written ``5`` or ``0.1%``."""

    name = "N|P%"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | float:
        """Return an int for a number and a float for a share."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if value.isdecimal():
            return int(value)
        found = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]+)?|100)%", value)
        if found is None:
            self.fail(f"{value!r} is neither a number of images nor a share like 5%", param, ctx)
        return float(found[1]) / 100


@click.command(short_help="Turn images into a corpus.")
@click.argument("source", nargs=-1, type=PATH, metavar="SOURCE...")
@click.argument("corpus", type=PATH)
@choice_options
@click.option("--strict", is_flag=True, help="Make no corpus if any file cannot be used.")
@click.option(
    "--max-rejects",
    type=Share(),
    help="Fail if more images than this cannot be used, like 5 or 0.1%  [10%, and no image that "
    "differs in size or dtype].",
)
@click.option("--block-rows", type=AT_LEAST_1, help="Images per block  [about 16 MiB].")
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    help="Compression of the pixels  [the one that a trial finds fastest to read].",
)
@click.option("--plan", "mode", flag_value="plan", help="Only list the images and write the plan.")
@click.option("--part", type=Part(), help="Only write part I of N of a planned ingest.")
@click.option(
    "--finish",
    "mode",
    flag_value="finish",
    help="Only finish a corpus whose parts are all written.",
)
@click.option("--append", is_flag=True, help="Add to a corpus the images that it does not have.")
@force_option
@json_option
@cluster_options
def ingest(
    source: tuple[str, ...],
    corpus: str,
    mode: str | None,
    part: tuple[int, int] | None,
    append: bool,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
    **options: Any,
) -> None:
    """Turn images into a corpus.

    SOURCE is one or more of: image files, folders with their subfolders, patterns like
    'run*/*.tif', zip and tar archives, tables of files (CSV, text, Parquet), array files
    (file.h5::/name), and URLs of all these. CORPUS is the path or URL of a new Zarr store. All
    images must have the same size and colours, unless options such as --size and --color convert
    them.

    Files in a folder are taken in the natural order of their names: f2 before f10. Files that are
    given by name keep the order in which they are given. Files that cannot be used are left out,
    and CORPUS/rejects.jsonl says why. If an ingest was killed, the same line again continues it.

    \b
    Example:
      dnmf ingest faces/ faces.zarr --size 64x64 --color gray

    \b
    As jobs of an array, without a cluster:
      dnmf ingest --plan IMAGES faces.zarr --size 64x64
      dnmf ingest --part 1/16 faces.zarr       (and so on, on any machine)
      dnmf ingest --finish faces.zarr
    """
    _check_use(source, corpus, mode, part, force=force, append=append)
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster
    from dnmf.io.ingest import finish_parts, ingest_part, plan_ingest

    if part is not None:
        with count_progress("images") as progress:
            n_blocks = ingest_part(corpus, *part, on_progress=progress)
        click.echo(f"{corpus}: part {part[0]}/{part[1]}, {n_blocks} blocks")
        return
    if mode == "finish":
        _report(finish_parts(corpus, force=force), as_json, describe)
        return
    print_line(f"looking for images in {', '.join(source[:3])}{' ...' * (len(source) > 3)}")
    options["append"] = append
    if mode == "plan":
        plan = plan_ingest(source, corpus, force=force, **options)
        click.echo(f"{corpus}: {plan.layout.n_images:,} images in {plan.layout.n_blocks:,} blocks")
        return
    with cluster(**where), count_progress("images") as progress:
        result = dnmf.ingest(source, corpus, force=force, on_progress=progress, **options)
    _report(result, as_json, describe)


def _check_use(
    source: tuple[str, ...],
    corpus: str,
    mode: str | None,
    part: Any,
    *,
    force: bool,
    append: bool,
) -> None:
    """Raise UsageError or IngestError unless the arguments belong together."""
    if part is not None or mode == "finish":
        if source:
            raise click.UsageError(
                "--part and --finish take only the path of the corpus: the plan has the sources"
            )
        return
    if not source:
        raise click.UsageError(
            f"give the images and, after them, the new corpus: `dnmf ingest {corpus} NEW.zarr`"
        )
    check_sources(source, corpus, force=force or append)


def _report(result: dnmf.Corpus, as_json: bool, describe: Any) -> None:
    """Print what was written and how many images were left out."""
    if as_json:
        click.echo(json.dumps(describe(result.path)))
        return
    click.echo(repr(result)[1:-1])
    if result.n_rejects:
        click.echo(
            f"{result.n_rejects:,} image{'s' * (result.n_rejects > 1)} left out; "
            f"{result.path}/rejects.jsonl says which and why",
            err=True,
        )
