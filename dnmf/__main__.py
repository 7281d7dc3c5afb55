"""``dnmf`` and ``python -m dnmf``: the command line, which hears signals from its first line on."""

from __future__ import annotations

from dnmf.cli.signals import leave_on_signals


def main() -> None:
    """Run the command line."""
    leave_on_signals()
    from dnmf.cli.main import main as run  # takes a second or more, in which a signal may come

    run(prog_name="dnmf")


if __name__ == "__main__":
    main()
