"""Installs the peers of the race, each by itself, so that one that does not install does not stop the others.

    VENV/bin/python bench/race/install.py

What pip said of those that failed is kept in VENV/not-installed.json, from where the race tells it. Lines of
bench/requirements.txt before the first `# peer:` are needed by all and must install.
"""

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"


def blocks(text: str) -> dict[str, list[str]]:
    """The pins of each peer; those of all under an empty name."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if line.startswith("# peer:"):
            name = line.removeprefix("# peer:").strip()
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def pip(*arguments: str) -> str:
    """The last line of pip's error, empty if it went well."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    finished = subprocess.run(command, cwd=REQUIREMENTS.parent, capture_output=True, text=True)
    if not finished.returncode:
        return ""
    said = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
    errors = [line for line in said if "error" in line.lower()]
    return (errors or said or ["pip failed and said nothing"])[-1]


def main() -> int:
    """Peers are installed without what they depend on: that is listed with them.

    They disagree about the versions of packages that Sluice pins, and drag in torchvision, whose wheel does not import
    beside PyTorch's CPU build and breaks torchmetrics with it.
    """
    found = blocks(REQUIREMENTS.read_text())
    if error := pip(*(part for line in found.pop("") for part in line.split())):
        print(f"bench/requirements.txt: what all need does not install: {error}", file=sys.stderr)
        return 1
    failed = {}
    for name, pins in found.items():
        print(f"installing {name}", flush=True)
        if error := pip("--no-deps", *pins):
            failed[name] = error
            print(f"{name} does not install, the race goes on without it: {error}", file=sys.stderr)
    (Path(sys.prefix) / "not-installed.json").write_text(json.dumps(failed, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
