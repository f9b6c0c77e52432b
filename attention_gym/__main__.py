"""``python -m attention_gym``: see `attention_gym.cli.app`."""

from __future__ import annotations

import sys

try:
    from attention_gym.cli.app import main
except ModuleNotFoundError as error:
    if error.name not in {"rich", "matplotlib"}:
        raise
    sys.exit(f"{error.name} is not installed: pip install 'flexattn[gym]'")

if __name__ == "__main__":
    sys.exit(main())
