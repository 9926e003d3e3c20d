"""One verb of the command line per file: ``ABOUT`` it for ``--help``, ``Options`` are its own flags,
``SECTIONS`` the parts of the configuration that it takes, ``run`` does it. ``base()``, where there is one, is
what the settings are on top of; else ``--config`` and ``--preset`` say so, if it has them."""
