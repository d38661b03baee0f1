"""The numbers of README.md and of docs/optimizers.md, filled in from the results that are kept: `make readme`."""
