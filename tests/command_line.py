"""Commands, called in this process."""

from __future__ import annotations

from click.testing import CliRunner

from dnmf.cli.main import main


def run(*arguments, status=0):
    """Run a command, check its exit status, and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result
