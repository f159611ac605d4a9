import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("user_program.py")


@pytest.mark.slow
def test_the_program_whose_types_are_checked_runs(tmp_path):
    ended = subprocess.run(
        [sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "rank is 0; it must be a whole number from 1 to 9223372036854775807\n"
