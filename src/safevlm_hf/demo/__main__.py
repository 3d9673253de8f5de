"""`python -m safevlm_hf.demo`, as `safevlm demo`."""

import sys

from .run import main


if __name__ == "__main__":
    sys.exit(main())
