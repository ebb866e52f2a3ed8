"""Files of BIDS: names, sidecars, tables, volumes, and how a dataset grows. Knows no model and no statistics."""
