"""A simulated GPU and the servers that share it. Imports nothing of the rest of tokenswarm.

profile   YAML -> what the simulation consists of; knobs: how it misbehaves
gpu       VRAM ledger, decode sharing, the NVML-like view
host      page cache and disk: how fast weights are read
scheduler which model is loaded, evicted, waited for (Ollama's rules)
http      sockets and HTTP/1.1 framing
formats   exact bytes of Ollama's two APIs
stream    one answer's tokens on an absolute schedule; mangle: hostile bytes
ollama    the server; control: the control port
truth     what really happened, as a file
serve     all of it in one process; process: that process as a context manager
"""
