"""The link between an agent and a run: numbered, acknowledged, resumed after a cut."""
