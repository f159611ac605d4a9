"""The look-up of known vulnerabilities, with a pip-audit that says what it is told to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
SAFE = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "not found"}
VULNERABLE = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
HOPELESS = {"name": "d", "version": "4", "vulns": [{"id": "CVE-2", "fix_versions": []}]}


def audit(tmp_path, **answers):
    """Run the look-up; a service without an answer cannot be asked."""
    told = {service: json.dumps({"dependencies": found}) for service, found in answers.items()}
    script = tmp_path / "pip-audit"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"told = {told!r}\n"
        "service = [a for a in sys.argv if a.startswith('--vuln')][0].split('=')[1]\n"
        "if service not in told:\n"
        "    sys.exit('no connection')\n"
        "print(told[service])\n"
    )
    script.chmod(0o755)
    done = subprocess.run([sys.executable, AUDIT, script], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("found", [[VULNERABLE], [SAFE, HOPELESS], [UNKNOWN, VULNERABLE]])
def test_a_vulnerability_fails(found, tmp_path):
    code, said = audit(tmp_path, pypi=found)
    assert code == 1
    assert "CVE-" in said


def test_what_is_known_and_safe_passes(tmp_path):
    code, said = audit(tmp_path, pypi=[SAFE, UNKNOWN])
    assert (code, said) == (0, "pypi knows 1 of 2 pinned packages\n")


@pytest.mark.parametrize("answers", [{}, {"pypi": [UNKNOWN]}, {"osv": [UNKNOWN]}])
def test_nothing_looked_up_is_told_and_passes(answers, tmp_path):
    code, said = audit(tmp_path, **answers)
    assert code == 0
    assert "were not looked up" in said


def test_the_second_service_is_asked_where_the_first_knows_nothing(tmp_path):
    code, said = audit(tmp_path, pypi=[UNKNOWN], osv=[VULNERABLE])
    assert code == 1
    assert "c 2: CVE-1, mended in 3" in said
