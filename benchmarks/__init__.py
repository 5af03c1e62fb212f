"""One measurement a module: `python -m benchmarks.NAME --help`."""
