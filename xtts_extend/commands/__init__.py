"""The commands of xtts-extend. Each module parses arguments, calls the package and prints the result.

Each module has `HELP`, `add_arguments(parser)` and `run(args)`, which returns the exit code. The code that does the
work is imported when a command runs, so that `--help` is fast.
"""
