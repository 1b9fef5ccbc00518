"""Tests of the package: `scripts/compress test` runs them."""
