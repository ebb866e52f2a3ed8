"""Put a language model in the scanner: record its units as a BIDS dataset for the tools of functional MRI.

Each command has a function of its name in a module of its name, with the same arguments, e.g.
``from llm2bids.recording import record``. The nouns `UnitSpace` and `UnitMask` are in `llm2bids.space`.
"""

__version__ = "0.1.0"
