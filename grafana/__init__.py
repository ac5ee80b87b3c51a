"""The dashboards, generated: python -m grafana.generate (see docs/stack.md)."""
