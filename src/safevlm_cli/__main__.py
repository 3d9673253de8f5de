"""`python -m safevlm_cli`, as `safevlm`."""

from . import main


if __name__ == "__main__":
    main()
