"""Reaching inside a transformer: loading, hookpoints, recording. Knows no BIDS and no file but the model's own.

All of torch and transformers is behind this package; nothing here imports nilearn.
"""
