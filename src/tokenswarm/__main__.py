"""`python -m tokenswarm` is the console script."""

from tokenswarm.cli import main

if __name__ == "__main__":
    main()
