"""`python agents/engine/agent.py` is `tokenswarm agent engine`."""

import sys

from tokenswarm.cli import main

if __name__ == "__main__":
    main(["agent", "engine", *sys.argv[1:]], prog_name="tokenswarm")
