"""The group ``dnmf`` of all commands: its help, its version, and the exit status of errors."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from dnmf._version import __version__
from dnmf.cli.components import components
from dnmf.cli.demo import demo
from dnmf.cli.doctor import doctor
from dnmf.cli.fit import fit
from dnmf.cli.info import info, verify
from dnmf.cli.ingest import ingest
from dnmf.cli.options import quiet_option, take_storage_options
from dnmf.cli.plan import plan
from dnmf.cli.plot import plot
from dnmf.cli.progress import LogPrinter
from dnmf.cli.rank import rank
from dnmf.cli.report import report
from dnmf.cli.show import show
from dnmf.cli.signals import EXIT_STATUS, StoppedBySignal
from dnmf.cli.transform import reconstruct, transform
from dnmf.errors import BadImagesError, DnmfError, ParameterError


class _Failure(click.ClickException):
    """Failure of a command: what is printed of it, its kind and its exit status."""

    def __init__(self, message: str, kind: str, status: int = 1) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = status  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Print the message, as an error unless somebody has asked for the end."""
        word = "Error: " if self.exit_code == 1 else ""
        click.echo(f"{word}{self.format_message()}", file=file, err=True)


class _CommandGroup(click.Group):
    """Group of commands that turns dnmf's errors into one line, or JSON, and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, False, **extra)
        try:
            status = super().main(words, prog_name, complete_var, False, **extra)
        except click.ClickException as error:
            with suppress(BrokenPipeError):
                error.show()
                if "--json" in words:
                    click.echo(json.dumps(_describe(error)))
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with LogPrinter():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends without a word: the reader of a pipe has read enough
        except ParameterError as error:
            command = self._command_of(ctx)
            used = click.Context(command, parent=ctx, info_name=command.name)
            raise click.UsageError(self._in_flags(ctx, error), used) from error
        except BadImagesError as error:
            raise _Failure(str(error), type(error).__name__) from error
        except (DnmfError, OSError) as error:
            raise _Failure(self._in_flags(ctx, error), type(error).__name__) from error
        except MemoryError as error:
            raise _Failure(
                f"not enough memory ({error}); use fewer components or blocks of fewer images",
                "MemoryError",
            ) from error
        except StoppedBySignal as error:
            raise _Failure("stopped by a signal", "StoppedBySignal", EXIT_STATUS) from error
        except BaseException as error:
            if not _was_interrupted(error):
                raise
            raise _Failure("interrupted", "KeyboardInterrupt", 130) from error

    def _command_of(self, ctx: click.Context) -> click.Command:
        return self.commands[ctx.invoked_subcommand or ""]

    def _in_flags(self, ctx: click.Context, error: Exception) -> str:
        """Return an error's message as one line, in which parameters have the names of flags."""
        message = " ".join(str(error).split())
        for option in self._command_of(ctx).params:
            if isinstance(option, click.Option):
                flag, name = max(option.opts, key=len), str(option.name)
                # One word may be prose, as in "the scheduler was lost", unless it begins a clause.
                before = r"(?<![-\w])" if "_" in name else r"(?:^|(?<=[;:,] )|(?<=\())"
                pattern = rf"{before}{name}(?= is | was )|(?<![-\w]){name}(?==)"
                message = re.sub(pattern, flag, message)
        return message


def _was_interrupted(error: BaseException | None) -> bool:
    """Check whether Ctrl-C has led to an error, as it does while Dask starts or ends workers."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _describe(error: click.ClickException) -> dict[str, Any]:
    """Return an error as JSON types: its message, its kind, its status, and all bad images."""
    cause = error.__cause__
    return {
        "error": error.format_message(),
        "type": getattr(error, "kind", type(error).__name__),
        "status": error.exit_code,
        **({"errors": cause.errors} if isinstance(cause, BadImagesError) else {}),
    }


def _print_version(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
    """Print the version, with libraries and machine if --verbose is given, and end."""
    if not is_given or ctx.resilient_parsing:
        return
    found: dict[str, Any] = {"dnmf": __version__}
    text = f"dnmf, version {__version__}"
    if ctx.params["verbose"]:
        from dnmf.cli.environment import describe_environment, format_environment

        found = describe_environment()
        text = format_environment(found)
    click.echo(json.dumps(found) if ctx.params["as_json"] else text)
    ctx.exit()


@click.group(cls=_CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, callback=_print_version, expose_value=False, help="Show the version."
)
@click.option(
    "--verbose",
    is_flag=True,
    is_eager=True,
    help="With --version: print libraries and machine, too.",
)
@click.option(
    "--json", "as_json", is_flag=True, is_eager=True, help="With --version --verbose: print JSON."
)
def main(verbose: bool, as_json: bool) -> None:
    """Non-negative matrix factorisation of image corpora larger than memory.

    \b
    Start with:  dnmf demo
    Then:        dnmf ingest FOLDER images.zarr --size 64x64 --color gray
                 dnmf fit images.zarr images.model -k 64
                 dnmf report images.model --corpus images.zarr --out report.html

    All commands have the options -q (print no progress) and --json (print the result or the error
    as one JSON object on stdout). `dnmf COMMAND --help` describes a command, with an example.

    If you report a fault, add the output of `dnmf --version --verbose`.

    Exit status: 0 success, 1 an error that is named, 2 wrong usage, 130 interrupted, 75 a fit was
    stopped by SIGTERM or SIGUSR1 (run the same line again to continue it).

    \b
    To complete commands, options and paths with the Tab key, add to your shell's start-up file:
      bash: eval "$(_DNMF_COMPLETE=bash_source dnmf)"
      zsh:  eval "$(_DNMF_COMPLETE=zsh_source dnmf)"
      fish: _DNMF_COMPLETE=fish_source dnmf | source
    """
    if verbose or as_json:
        flag = "--verbose" if verbose else "--json"
        raise click.UsageError(
            f"{flag} before a command goes with --version; options of a command follow its name"
        )


for command in (
    *(demo, ingest, info, show, verify),
    *(doctor, plan, fit, transform, reconstruct, components, rank, plot, report),
):
    command.params.append(quiet_option)
    if command is not demo:
        take_storage_options(command)
    main.add_command(command)
