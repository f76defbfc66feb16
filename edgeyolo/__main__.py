"""`python -m edgeyolo` is the `edgeyolo` command."""

from __future__ import annotations

from edgeyolo.cli.app import main

if __name__ == "__main__":
    main()
