"""The web page: a project folder as a window on files and on jobs that live without it."""
