"""`python -m wsrl` is the `wsrl` command."""

import sys

from wsrl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
