"""``python -m dnmf``: the command line."""

from dnmf.cli.main import main

main(prog_name="dnmf")
