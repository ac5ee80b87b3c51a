"""NVIDIA GPUs through NVML: cheap figures at every look, dear ones on a thread of their own."""
