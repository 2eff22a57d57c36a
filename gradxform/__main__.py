"""``python -m gradxform``, and the ``gradxform`` command."""

import sys

from gradxform.comparison.cli import main

if __name__ == "__main__":
    sys.exit(main())
