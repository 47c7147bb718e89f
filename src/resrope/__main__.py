"""`python -m resrope`, which launchers of many processes want: the command line."""

from resrope.cli import main

main()
