"""The commands of xtts-extend, one module each, which parse arguments, call the package and print the result.

Each module has `HELP`, `add_arguments(parser)` and `run(args)`, which returns the exit code. The code that does the
work is imported when a command runs, so that `--help` is fast.
"""
