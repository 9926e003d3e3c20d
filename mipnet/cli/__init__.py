"""One verb of the command line per file: ``Options`` are its flags, ``run`` does it."""
