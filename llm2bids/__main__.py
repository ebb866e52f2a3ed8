"""``python -m llm2bids``."""

import sys

from llm2bids.cli import main

sys.exit(main())
