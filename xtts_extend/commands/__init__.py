"""The commands of xtts-extend: parse, call, print."""
