"""`python -m lissome.cli`."""

from lissome.cli import main

if __name__ == "__main__":
    main()
