"""Designs: matrices, regressors, BIDS Stats Models, and the files that FSL reads."""
