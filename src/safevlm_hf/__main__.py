"""`python -m safevlm_hf`, as `safevlm`, which starts faster: it does not import the package for a help text."""

from safevlm_cli import main


main()
