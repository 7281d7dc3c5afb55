"""``python -m dnmf``: the command line."""

from dnmf.cli import main

main(prog_name="dnmf")
