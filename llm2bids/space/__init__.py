"""Which unit is which voxel, and which units are meant or chosen."""

from llm2bids.space.mask import UnitMask
from llm2bids.space.pattern import UnitPattern
from llm2bids.space.selection import Selection
from llm2bids.space.units import UnitSpace, fold

__all__ = ["Selection", "UnitMask", "UnitPattern", "UnitSpace", "fold"]
