"""`python -m safevlm_hf`, as `safevlm`."""

from .cli import main


main()
