"""`python -m latefuse`."""

import sys

from latefuse.cli import main

sys.exit(main())
