"""`python -m pocketscribe`, which torchrun needs."""

from pocketscribe.cli import main

main()
