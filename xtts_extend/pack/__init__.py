"""A language as a file: write and read it, keep many beside a base, and let the language of a call decide."""
