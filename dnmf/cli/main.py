"""The group ``dnmf`` of all commands: its help, its version, and the exit status of errors."""

from __future__ import annotations

from typing import Any

import click

from dnmf._version import __version__
from dnmf.cli.demo import demo
from dnmf.cli.fit import fit
from dnmf.cli.info import info, verify
from dnmf.cli.ingest import ingest
from dnmf.cli.plan import plan
from dnmf.cli.plot import plot
from dnmf.cli.progress import LogPrinter
from dnmf.cli.rank import rank
from dnmf.cli.signals import EXIT_STATUS, StoppedBySignal
from dnmf.cli.transform import reconstruct, transform
from dnmf.errors import DnmfError


class _CommandGroup(click.Group):
    """Group of commands that turns dnmf's errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with LogPrinter():
                return super().invoke(ctx)
        except (DnmfError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except MemoryError as error:
            raise click.ClickException(
                f"not enough memory ({error}); use fewer components or blocks of fewer images"
            ) from error
        except StoppedBySignal:
            click.echo("stopped by a signal", err=True)
            ctx.exit(EXIT_STATUS)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dnmf")
def main() -> None:
    """Non-negative matrix factorisation of image corpora larger than memory.

    \b
    Start with:  dnmf demo
    Then:        dnmf ingest FOLDER images.zarr --size 64x64 --color gray
                 dnmf fit images.zarr images.model -k 64
                 dnmf plot images.model --corpus images.zarr --out pictures

    Exit status: 0 done, 1 a named failure, 2 wrong usage, 130 interrupted; 75 a fit that SIGTERM
    or SIGUSR1 has stopped, to be run again.
    """


for command in (demo, ingest, info, verify, plan, fit, transform, reconstruct, rank, plot):
    main.add_command(command)
