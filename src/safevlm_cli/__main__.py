"""`python -m safevlm_cli` runs `safevlm`."""

from . import main


if __name__ == "__main__":
    main()
