"""Samplers that run beside the load in processes of their own: GPU, engine, host."""
