"""Marks of tests for the compiled part of the hot path: skipped where nothing was compiled."""

import pytest

from tokenswarm import native

_WHY = "tokenswarm._native is not there: install with a C compiler and Python's headers"
compiled = [pytest.mark.live, pytest.mark.skipif(not native.NATIVE, reason=_WHY)]
