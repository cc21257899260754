"""python -m owpo"""

import sys

from owpo.cli import main

sys.exit(main())
