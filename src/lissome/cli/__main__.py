"""`python -m lissome.cli`."""

from lissome.cli import main

main()
