"""The web page: a view of a project folder's files and jobs, which exist independently of it."""
