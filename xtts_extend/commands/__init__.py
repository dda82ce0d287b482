"""The commands of xtts-extend: parse, call, print; one module a command.

Each has `HELP`, `add_arguments(parser)` and `run(args)`, which returns the exit code. What a command does lies in
another room and is imported when it runs, so that help is quick.
"""
