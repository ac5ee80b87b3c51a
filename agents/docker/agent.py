"""`python agents/docker/agent.py` is `tokenswarm agent docker`."""

import sys

from tokenswarm.cli import main

if __name__ == "__main__":
    main(["agent", "docker", *sys.argv[1:]], prog_name="tokenswarm")
