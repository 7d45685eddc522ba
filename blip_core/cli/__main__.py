"""`python -m blip_core.cli` is `blip`."""

import sys

from blip_core.cli import main

sys.exit(main())
