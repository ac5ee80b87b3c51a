"""`python -m tokenswarm.telemetry`: the sampler process."""

import sys

from tokenswarm.telemetry.sampler import main

if __name__ == "__main__":
    sys.exit(main())
