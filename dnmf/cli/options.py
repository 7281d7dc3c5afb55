"""Options, types and progress that commands of the command line share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

LOSSES = ("frobenius", "kullback-leibler", "itakura-saito")
CLUSTER = ("workers", "memory_limit", "scheduler", "scheduler_file")
INITS = ("random", "nndsvd", "nndsvda", "nndsvdar")
Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType[tuple[int, int]]):
    """Height x width."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Read the value."""
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is not a size; write height x width, like 64x64", param, ctx)
        return int(parts[0]), int(parts[1])


class Rows(click.ParamType[slice]):
    """First row : row after the last."""

    name = "A:B"

    def convert(self, value: Any, param: Any, ctx: Any) -> slice:
        """Read the value."""
        parts = str(value).split(":")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            self.fail(
                f"{value!r} is not a range of rows; write first:last+1, like 0:25", param, ctx
            )
        return slice(int(parts[0]), int(parts[1]))


def cluster_options(command: Command) -> Command:
    """Give a command the flags that say where its passes run."""
    for option in (
        click.option(
            "--scheduler-file", metavar="F", help="File with a running scheduler's address."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Address of a running Dask scheduler."),
        click.option(
            "--memory-limit", metavar="SIZE", help="Memory of each worker of --workers, like 2GB."
        ),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Start so many local processes."
        ),
    ):
        command = option(command)
    return command


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


class Penalty(click.ParamType[float | str]):
    """A number, or what the weights have."""

    name = "FLOAT"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Read the value."""
        return "same" if value == "same" else click.FLOAT.convert(value, param, ctx)


class Ranks(click.ParamType[list[int]]):
    """Numbers of components, and ranges of them."""

    name = "K,K,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Read the value."""
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
    """A loss by its name, the beginning of its name, or its beta."""

    name = "LOSS"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """Read the value."""
        names = [name for name in LOSSES if name.startswith(str(value))]
        if len(names) == 1:
            return names[0]
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is no loss; take one of {', '.join(LOSSES)} or a number")


def solver_of(loss: float | str) -> str:
    """Choose the solver that a loss needs."""
    return "cd" if loss in ("frobenius", 2) else "mu"


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

mask_option = click.option(
    "--mask",
    metavar="ZARR",
    help="Boolean Zarr array (images, pixels), true where a pixel is to be ignored.",
)


def fit_options(command: Command) -> Command:
    """Give a command the flags that say what is minimised, and when to stop."""
    for option in (
        click.option(
            "--l1-ratio",
            type=float,
            default=0.0,
            help="Share of the l1 norm in penalties.  [default: 0]",
        ),
        click.option(
            "--alpha-h",
            "alpha_H",
            type=Penalty(),
            default="same",
            help="Penalty on the components.  [default: as --alpha-w]",
        ),
        click.option(
            "--alpha-w",
            "alpha_W",
            type=float,
            default=0.0,
            help="Penalty on the weights.  [default: 0]",
        ),
        loss_option,
        click.option(
            "--seed",
            "random_state",
            type=int,
            default=0,
            show_default=True,
            help="Seed of the random start.",
        ),
        tol_option,
        click.option("--max-iter", type=int, default=200, show_default=True, help="Most passes."),
    ):
        command = option(command)
    return command


class BlockProgress:
    """Progress over blocks: a bar on a terminal, a line per block in a log."""

    def __enter__(self) -> BlockProgress:
        self.bar: Any = None
        return self

    def __call__(self, done: int, total: int) -> None:
        """Say that a block is done."""
        from dnmf.cli.progress import say

        if not sys.stderr.isatty():
            say(f"block {done} of {total}")
            return
        if self.bar is None:
            self.bar = click.progressbar(length=total, label="blocks", file=sys.stderr)
        self.bar.update(1)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.render_finish()
