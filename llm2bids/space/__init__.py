"""Which unit is which voxel, and which units are meant."""

from llm2bids.space.mask import UnitMask
from llm2bids.space.units import UnitSpace, fold

__all__ = ["UnitMask", "UnitSpace", "fold"]
