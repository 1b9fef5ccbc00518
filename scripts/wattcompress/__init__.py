"""Makes a ladder of compressed variants from one trained model: `scripts/compress` runs it."""
