"""Writes the complete form of every packaged config, with every default, which `plcourse cat --resolved` prints.

python scripts/tools/resolve_configs.py           # rewrite them
python scripts/tools/resolve_configs.py --check   # exit with status 1 if one is out of date
"""

import argparse
import contextlib
import io
import sys

from plcourse import catalog
from plcourse.__main__ import main as plcourse
from plcourse.runs.configs import find_config, parse_header


def resolved(name: str) -> str:
    """Returns what `--print_config` prints for a packaged config."""
    verb = parse_header(find_config(name)).verbs[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        plcourse([verb, "-c", name, "--print_config"])
    return f"# plcourse {verb} -c {name}, every default written out\n{printed.getvalue()}"


def main() -> None:
    """Rewrites or checks the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with status 1 if a file is out of date"
    )
    check = parser.parse_args().check
    stale = []
    for name in catalog.config_names():
        path, text = catalog.resolved_path(name), resolved(name)
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
