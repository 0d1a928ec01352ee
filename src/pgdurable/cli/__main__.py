"""`python -m pgdurable.cli`: the same as the `pgdurable` command."""

from pgdurable.cli import main

main()
