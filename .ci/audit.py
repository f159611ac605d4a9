"""Look up known vulnerabilities of the pinned dependencies: python .ci/audit.py PIP_AUDIT.

Ends with 1 if there are any. Where no service can be asked, or it knows none of the packages, it
says so and ends with 0: that nothing was found means nothing there.
"""

import json
import subprocess
import sys
from pathlib import Path

PINNED = Path(__file__).parents[1] / "constraints.txt"
SERVICES = ("pypi", "osv")
SECONDS = 300


def looked_up(pip_audit, service):
    """Return what is known of the packages that a service knows; none if it cannot be asked."""
    options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    command = [pip_audit, *options, f"--vulnerability-service={service}", "--requirement", PINNED]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"{service} did not answer within {SECONDS} s")
        return []
    except ValueError:
        said = done.stderr.strip().splitlines() or ["nothing"]
        print(f"{service} could not be asked: {said[-1][:200]}")
        return []
    known = [package for package in packages if "skip_reason" not in package]
    print(f"{service} knows {len(known)} of {len(packages)} pinned packages")
    return known


def main(pip_audit):
    """Ask one service after the other until one knows something; return the exit code."""
    for service in SERVICES:
        if known := looked_up(pip_audit, service):
            found = [(package, vuln) for package in known for vuln in package["vulns"]]
            for package, vuln in found:
                fixed = ", ".join(vuln["fix_versions"]) or "no version yet"
                print(f"{package['name']} {package['version']}: {vuln['id']}, mended in {fixed}")
            return 1 if found else 0
    print("known vulnerabilities were not looked up: no service could be asked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
