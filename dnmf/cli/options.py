"""Options and parameter types that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import zarr

    from dnmf.storage.corpus import Corpus

LOSSES = ("frobenius", "kullback-leibler", "itakura-saito")
CLUSTER_PARAMETERS = ("workers", "memory_limit", "scheduler", "scheduler_file")
"""Names of the parameters of `dnmf.engine.client.cluster` that are options."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType[tuple[int, int]]):
    """Height and width, written ``HxW``."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return height and width."""
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is not a size; write height x width, like 64x64", param, ctx)
        return int(parts[0]), int(parts[1])


class Rows(click.ParamType[slice]):
    """Range of rows, written ``A:B``."""

    name = "A:B"

    def convert(self, value: Any, param: Any, ctx: Any) -> slice:
        """Return the slice of rows A to B - 1."""
        parts = str(value).split(":")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            self.fail(
                f"{value!r} is not a range of rows; write first:last+1, like 0:25", param, ctx
            )
        return slice(int(parts[0]), int(parts[1]))


class Penalty(click.ParamType[float | str]):
    """Weight of a penalty: a number or ``same``."""

    name = "FLOAT"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Return the number, or ``"same"``."""
        return "same" if value == "same" else click.FLOAT.convert(value, param, ctx)


class Ranks(click.ParamType[list[int]]):
    """Numbers of components and ranges of them, written ``9,25,49`` or ``4-12``."""

    name = "K,K,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Return the numbers in the order in which they are written."""
        ranks: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            if not (first.isdigit() and (last.isdigit() or not dash)):
                self.fail(
                    f"{value!r} is no list of numbers of components; write them like 9,25,49 or "
                    "4-12",
                    param,
                    ctx,
                )
            ranks += range(int(first), int(last or first) + 1)
        return ranks


class Loss(click.ParamType[float | str]):
    """Loss: its name, the beginning of its name, or its beta."""

    name = "LOSS"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Return the name of the loss, or its beta."""
        names = [name for name in LOSSES if name.startswith(str(value))]
        if len(names) == 1:
            return names[0]
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is no loss; take one of {', '.join(LOSSES)} or a number")


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
        return command(**arguments, where=where)

    return add_options(
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Number of local worker processes to start.",
        ),
        click.option(
            "--memory-limit", metavar="SIZE", help="Memory of each worker of --workers, like 2GB."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Address of a running Dask scheduler."),
        click.option(
            "--scheduler-file", metavar="F", help="File with a running scheduler's address."
        ),
    )(call)


force_option = click.option(
    "--force", is_flag=True, help="Replace an earlier output of the same kind."
)

grace_option = click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Seconds that a pass may still take after SIGTERM or SIGUSR1.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)

components_option = click.option(
    "-k", "--components", "n_components", type=int, required=True, help="Number of components."
)

tol_option = click.option(
    "--tol",
    type=float,
    default=1e-4,
    show_default=True,
    help="Stop when a pass lowers the loss by less than this share; 0 runs all passes.",
)

loss_option = click.option(
    "--loss",
    "beta_loss",
    type=Loss(),
    default=LOSSES[0],
    show_default=True,
    help=f"{', '.join(LOSSES)}, the beginning of one of these, or a beta.",
)

fit_options = add_options(
    click.option(
        "--max-iter", type=int, default=200, show_default=True, help="Maximum number of passes."
    ),
    tol_option,
    click.option(
        "--seed",
        "random_state",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the random start.",
    ),
    loss_option,
    click.option(
        "--alpha-w",
        "alpha_W",
        type=float,
        default=0.0,
        help="Penalty on the weights.  [default: 0]",
    ),
    click.option(
        "--alpha-h",
        "alpha_H",
        type=Penalty(),
        default="same",
        help="Penalty on the components.  [default: as --alpha-w]",
    ),
    click.option(
        "--l1-ratio",
        type=float,
        default=0.0,
        help="Share of the l1 norm in penalties.  [default: 0]",
    ),
)
"""Options of commands that fit: what is minimised, and when to stop."""

mask_option = click.option(
    "--mask",
    metavar="ZARR",
    help="Boolean Zarr array (images, pixels), true where a pixel is to be ignored.",
)


def open_images(corpus: str, mask: str | None) -> tuple[Corpus, zarr.Array[Any] | None]:
    """Open a corpus and the mask of its pixels, if there is one.

    Parameters
    ----------
    corpus, mask : str
        Paths, as the command got them.
    """
    from dnmf.estimators.inputs import open_mask
    from dnmf.storage.corpus import open_corpus

    images = open_corpus(corpus)
    return images, None if mask is None else open_mask(mask, images.shape)
