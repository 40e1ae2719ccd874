"""Tests that need a C++ compiler are skipped where there is none."""

from __future__ import annotations

import pytest

from networks import fused_norm

needs_compiler = pytest.mark.skipif(fused_norm.library() is None, reason="no C++ compiler")
