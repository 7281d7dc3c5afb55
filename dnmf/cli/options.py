"""Options and parameter types that several commands share."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from dnmf._access import remember_options
from dnmf.cli.paths import require_exists
from dnmf.cli.progress import silent_dask
from dnmf.storage.paths import is_url

LOSSES = ("frobenius", "kullback-leibler", "itakura-saito")
CLUSTER_PARAMETERS = ("workers", "memory_limit", "scheduler", "scheduler_file")
"""Names of the parameters of `dnmf.engine.client.cluster` that are options."""

MAX_PIXELS = 2**26
"""Largest number of pixels that images are resized to: as many as an image file may have."""

MAX_RANKS = 1000
"""Largest count of numbers in one range: more of them are a typing error."""

LEAST_MEMORY = 10**8
"""Smallest memory of a worker in bytes: with less it does not start."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """Finite number in a range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Size(click.ParamType[tuple[int, int]]):
    """Height and width, written ``HxW``."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return height and width."""
        found = re.fullmatch(r"([1-9][0-9]*)[xX]([1-9][0-9]*)", str(value))
        if found is None:
            self.fail(f"{value!r} is not a size; write height x width, like 64x64", param, ctx)
        size = int(found[1]), int(found[2])
        if size[0] * size[1] > MAX_PIXELS:
            self.fail(f"{value} has more than {MAX_PIXELS:,} pixels", param, ctx)
        return size


class Rows(click.ParamType[slice]):
    """Range of rows, written ``A:B``."""

    name = "A:B"

    def convert(self, value: Any, param: Any, ctx: Any) -> slice:
        """Return the slice of rows A to B - 1."""
        found = re.fullmatch(r"([0-9]+):([0-9]+)", str(value))
        if found is None or int(found[1]) >= int(found[2]):
            self.fail(
                f"{value!r} is not a range of rows; write first:last+1, like 0:25", param, ctx
            )
        return slice(int(found[1]), int(found[2]))


class Penalty(click.ParamType[float | str]):
    """Weight of a penalty: a number or ``same``."""

    name = "FLOAT"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Return the number, or ``"same"``."""
        return "same" if value == "same" else Number(min=0).convert(value, param, ctx)


class Ranks(click.ParamType[list[int]]):
    """Numbers of components and ranges of them, written ``9,25,49`` or ``4-12``."""

    name = "K,K,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Return the numbers in the order in which they are written."""
        ranks: list[int] = []
        for part in str(value).split(","):
            found = re.fullmatch(r" *([0-9]{1,9}) *(?:- *([0-9]{1,9}) *)?", part)
            if found is None:
                self.fail(
                    f"{value!r} is no list of numbers of components; write them like 9,25,49 or "
                    "4-12",
                    param,
                    ctx,
                )
            first, last = int(found[1]), int(found[2] or found[1])
            if not 1 <= first <= last:
                self.fail(
                    f"{part.strip()!r} is no range of numbers of components; write the smaller "
                    "one first, from 1 on, like 4-12",
                    param,
                    ctx,
                )
            if last - first >= MAX_RANKS:
                self.fail(f"{part.strip()!r} is more than {MAX_RANKS} numbers", param, ctx)
            ranks += range(first, last + 1)
        if repeated := sorted({rank for rank in ranks if ranks.count(rank) > 1}):
            self.fail(f"{value!r} repeats {repeated[0]}", param, ctx)
        return ranks


class MemorySize(click.ParamType[str]):
    """Number of bytes with a unit, such as ``2GB``."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the size as it is written."""
        from dask.utils import parse_bytes

        try:
            n_bytes = parse_bytes(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a size; write it with a unit, like 2GB", param, ctx)
        if n_bytes < LEAST_MEMORY:
            self.fail(
                f"{value!r} is {n_bytes:,} bytes, and a worker needs 100MB at least; write the "
                "size with a unit, like 2GB",
                param,
                ctx,
            )
        return str(value)


class Workers(click.IntRange):
    """Number of worker processes to start on this machine, within reason."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the number."""
        from dask.system import CPU_COUNT

        number: int = super().convert(value, param, ctx)
        most = max(2 * CPU_COUNT, 4)
        if number > most:
            self.fail(
                f"{number:,} processes on {CPU_COUNT} cores would only wait for each other; start "
                f"{CPU_COUNT}, or at most {most}, or give --scheduler for a cluster",
                param,
                ctx,
            )
        return number


class Loss(click.ParamType[float | str]):
    """Loss: its name, the beginning of its name, or its beta."""

    name = "LOSS"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Return the name of the loss, or its beta."""
        names = [name for name in LOSSES if name.startswith(str(value))]
        if len(names) == 1:
            return names[0]
        try:
            beta = float(value)
        except ValueError:
            beta = math.nan
        if not math.isfinite(beta):
            self.fail(
                f"{value!r} is no loss; take one of {', '.join(LOSSES)} or a number", param, ctx
            )
        return beta


AT_LEAST_1 = click.IntRange(min=1)
PATH = click.Path()
"""Type of all paths; the shell completes them."""


def add_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command, which its help lists in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose a cluster; the command gets them as the dict `where`."""

    @wraps(command)
    def call(**arguments: Any) -> Any:
        where = {name: arguments.pop(name) for name in CLUSTER_PARAMETERS}
        source = click.get_current_context().get_parameter_source("scheduler")
        if source is ParameterSource.ENVIRONMENT and (where["workers"] or where["scheduler_file"]):
            where["scheduler"] = None  # an option has precedence over the environment
        if sum(where[name] is not None for name in ("workers", "scheduler", "scheduler_file")) > 1:
            raise click.UsageError(
                "--workers, --scheduler and --scheduler-file exclude each other; give one of them"
            )
        if where["memory_limit"] is not None and where["workers"] is None:
            raise click.UsageError("--memory-limit is for the workers of --workers N; give both")
        if not any(where.values()):
            return command(**arguments, where=where)
        with silent_dask():
            return command(**arguments, where=where)

    return add_options(
        click.option(
            "--workers",
            type=Workers(min=1),
            help="Start this many worker processes on this machine, at most two per core.",
        ),
        click.option(
            "--memory-limit",
            type=MemorySize(),
            help="Memory of each of these workers, with a unit, like 2GB.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            envvar="DASK_SCHEDULER_ADDRESS",
            show_envvar=True,
            help="Use a running Dask cluster, by the address of its scheduler.",
        ),
        click.option(
            "--scheduler-file",
            type=PATH,
            metavar="F",
            help="The same, by the file into which the scheduler has written its address.",
        ),
    )(call)


force_option = click.option(
    "--force", is_flag=True, help="Replace an earlier result that dnmf wrote at the same path."
)


def _as_options(
    ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not (name and mark):
            raise click.BadParameter(f"{pair!r} is no option; write NAME=VALUE", ctx, param)
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def take_storage_options(command: click.Command) -> None:
    """Add the option --storage-option, which is for the URLs among the arguments."""
    run: Callable[..., Any] = command.callback or (lambda **arguments: None)
    names = [str(param.name) for param in command.params if isinstance(param.type, click.Path)]

    @wraps(run)
    def call(storage_options: dict[str, Any], **arguments: Any) -> Any:
        if storage_options:
            given = (arguments[name] for name in names)
            paths = [[each] if isinstance(each, str) else each or () for each in given]
            remember_options(storage_options, *chain.from_iterable(paths))
        return run(**arguments)

    command.callback = call
    command.params.append(
        click.Option(
            ["--storage-option", "storage_options"],
            multiple=True,
            callback=_as_options,
            metavar="NAME=VALUE",
            help="Option of fsspec for the URLs given here, like anon=true; may be repeated.",
        )
    )


watch_options = add_options(
    click.option(
        "--log",
        type=PATH,
        metavar="FILE",
        help="Append a JSON line to this file at the start, after each pass and at the end.",
    ),
    click.option(
        "--metrics",
        type=PATH,
        metavar="FILE.prom",
        help="After each pass, write gauges to this file for Prometheus' node_exporter.",
    ),
)
"""Options of commands that run passes: files for their results so far."""

grace_option = click.option(
    "--grace",
    type=Number(min=0),
    default=20.0,
    show_default=True,
    help="Seconds after SIGTERM or SIGUSR1 in which the current pass may still finish.",
)


def _be_quiet(ctx: click.Context, param: click.Parameter, is_quiet: bool) -> None:
    if is_quiet:
        logging.getLogger("dnmf").setLevel(logging.WARNING)


quiet_option = click.Option(
    ["-q", "--quiet"],
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Print only warnings, errors and the result, no progress.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result or the error as JSON on stdout."
)

components_option = click.option(
    "-k",
    "--components",
    "n_components",
    type=AT_LEAST_1,
    required=True,
    help="Number of components.",
)

tol_option = click.option(
    "--tol",
    type=Number(min=0),
    default=1e-4,
    show_default=True,
    help="Stop when a pass lowers the loss by less than this share of it; 0 runs all passes.",
)

loss_option = click.option(
    "--loss",
    "beta_loss",
    type=Loss(),
    default=LOSSES[0],
    show_default=True,
    help=f"Loss to minimise: {', '.join(LOSSES)}, the beginning of one of these names, or the "
    "beta of a beta divergence.",
)

missing_option = click.option(
    "--missing",
    type=click.Choice(["error", "ignore"]),
    default="error",
    show_default=True,
    help="Whether NaN pixels are an error, or are missing and ignored.",
)

fit_options = add_options(
    click.option(
        "--max-iter",
        type=AT_LEAST_1,
        default=200,
        show_default=True,
        help="Largest number of passes.",
    ),
    tol_option,
    click.option(
        "--seed",
        "random_state",
        type=click.IntRange(0, 2**32 - 1),
        default=0,
        show_default=True,
        help="Seed of the random start.",
    ),
    loss_option,
    click.option(
        "--alpha-w",
        "alpha_W",
        type=Number(min=0),
        default=0.0,
        help="Weight of the penalty on W.  [default: 0]",
    ),
    click.option(
        "--alpha-h",
        "alpha_H",
        type=Penalty(),
        default="same",
        help="Weight of the penalty on H.  [default: that of --alpha-w]",
    ),
    click.option(
        "--l1-ratio",
        type=Number(0, 1),
        default=0.0,
        help="Share of the l1 norm in both penalties.  [default: 0]",
    ),
    missing_option,
)
"""Options of commands that fit: what is minimised, and when to stop."""


def _check_mask(ctx: click.Context, param: click.Parameter, mask: str | None) -> str | None:
    if mask is not None and not is_url(mask):
        require_exists("--mask", mask)
    return mask


mask_option = click.option(
    "--mask",
    type=PATH,
    callback=_check_mask,
    metavar="ZARR",
    help="Boolean Zarr array of shape (images, pixels), true where a pixel is to be ignored.",
)
