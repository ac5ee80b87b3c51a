"""Sources that have measured nothing: their rows were made of those of others."""

ANALYSIS = "analysis"
"""What a whole run was found to be."""
LIVE = "watch"
"""The live word on a run that goes on; that of ANALYSIS takes its place."""
LIVE_MEASUREMENTS = ("swap", "swap_active", "request_stratum")
