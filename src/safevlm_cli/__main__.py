"""`python -m safevlm_cli`, as `safevlm`."""

from . import main


main()
