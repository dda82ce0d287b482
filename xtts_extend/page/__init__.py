"""The web page: a view of the files and jobs in a project folder, which do not depend on it."""
