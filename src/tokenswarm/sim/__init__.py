"""A simulated GPU and the servers that share it. Imports nothing of the rest of tokenswarm.

- profile: YAML -> what the simulation consists of; knobs: how it misbehaves; settings: now
- gpu: VRAM ledger, decode sharing, the NVML-like view; meter: its gauges
- host: page cache and disk, how fast weights are read
- scheduler: which model is loaded, evicted, waited for; runner: a loaded model and its waiters
- instance: a server of one model with a fixed share of the GPU: start, sleep, end; switcher: who
  wakes it and puts others to sleep
- http: sockets and HTTP/1.1 framing
- asked: what a request's body asks for; answer: one request on its way
- formats: exact bytes of Ollama's two APIs; catalog: what it tells about its models
- chunks: exact bytes of vLLM's and SGLang's API; single, vllm, sglang: the servers that speak it
- script: what an answer says, event by event; words: the words
- stream: when, on an absolute schedule; ticker: its timers; channel: events to writes
- inference: what is done for one request; ollama: the server
- fleet: all servers and what they share; control: the control port
- truth: what really happened, as a file
- serve: all of it in one process; process: that process as a context manager
"""
