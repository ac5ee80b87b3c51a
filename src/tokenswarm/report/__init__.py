"""Figures in, pages out: terminal and HTML."""
