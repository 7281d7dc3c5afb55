"""The command line: one module per command, each calling the library once.

Imports everything; nothing imports it. `dnmf --help` must be quick: what is heavy to import is
imported inside the functions.
Start reading at `main`, which registers the commands; options that they share are in `options`,
what they print while they run is in `progress`, how a signal stops them in `signals`.
"""
