"""Which labels, which image, which session; keeping and restoring them."""
