"""HTML pages that open without a network: their frame and panels, and the page of an analysis."""
