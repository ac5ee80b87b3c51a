"""What runs beside a GPU that another host loads: it samples for each run that asks."""
