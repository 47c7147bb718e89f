"""The command line: parse, call, print. It may import everything; nothing of the package imports it."""

from resrope.cli.shell import app, main

__all__ = ["app", "main"]
