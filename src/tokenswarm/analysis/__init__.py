"""Rows in, figures out. Pure functions; imports nothing of `sim`, `load` or `report`."""
