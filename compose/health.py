"""Is what this container was made for there? Ends with 0 or 1.

TOKENSWARM_HEALTH names it: HOST:PORT that has to accept a connection; several with commas.
"""

import os
import socket
import sys

for place in filter(None, os.environ.get("TOKENSWARM_HEALTH", "").split(",")):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host or "127.0.0.1", int(port)), timeout=3).close()
    except OSError as e:
        sys.exit(f"{place}: {e}")
