"""What BIDS knows: names, sidecars, tables, volumes and how a dataset grows. Knows no model and no statistics."""
