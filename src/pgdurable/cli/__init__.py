"""The command line: `pgdurable migrate`, `worker`, `start`, `list`, `show`, `signal`, `resume`, `doctor`, `uninstall`.

`app` holds the commands together; each group of commands has a module, and what they print is made in `text`,
`story` and `reasons`. Nothing here knows how an instance runs.
"""

from pgdurable.cli.app import main

__all__ = ["main"]
