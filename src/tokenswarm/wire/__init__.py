"""Bytes to events to records. Pure: no sockets, no clocks, no threads."""
