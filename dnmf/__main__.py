"""``dnmf`` and ``python -m dnmf``: the command line, which handles signals from the start."""

from __future__ import annotations

from dnmf.cli.signals import leave_on_signals


def main() -> None:
    """Run the command line."""
    leave_on_signals()
    from dnmf.cli.main import main as run  # a signal may come during this second or more

    run(prog_name="dnmf")


if __name__ == "__main__":
    main()
