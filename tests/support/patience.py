"""How long tests wait for what is going to happen."""

from __future__ import annotations

from typing import Final

PATIENCE_SECONDS: Final = 300.0
"""Ends a test that would wait for ever; says nothing of how fast the machine is."""
