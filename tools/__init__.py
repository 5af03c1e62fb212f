"""One command-line program a module: `python -m tools.NAME --help`."""
