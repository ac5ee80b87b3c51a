"""`python agents/gpu/agent.py` is `tokenswarm agent gpu`."""

import sys

from tokenswarm.cli import main

if __name__ == "__main__":
    main(["agent", "gpu", *sys.argv[1:]], prog_name="tokenswarm")
