"""`python -m tools.chart`: write what is generated of the chart."""

from __future__ import annotations

import sys

from tools.chart import helm, manifest, readme
from tools.servers.errors import ServerError
from tools.stack.manifest import PATH


def main() -> int:
    try:
        readme.PATH.write_text(readme.render())
        PATH.write_text(manifest.render())
    except (ServerError, helm.HelmFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
