"""The unit and its companions, checked by systemd's own tools where they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # The binary is not installed on a build machine: any program of the right kind stands in for it.
    text = (ROOT / "systemd" / "pawld.service").read_text().replace("/usr/bin/pawld", "/bin/true")
    text = text.replace("/usr/bin/pawl ", "/bin/true ")
    unit = tmp_path / "pawld.service"
    unit.write_text(text)

    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )

    complaints = [line for line in result.stderr.splitlines() if "pawld.service" in line]
    assert not complaints, "\n".join(complaints)


def test_the_unit_relies_only_on_what_systemd_252_has() -> None:
    text = (ROOT / "systemd" / "pawld.service").read_text()

    newer = ["notify-reload", "FileDescriptorStorePreserve", "DelegateSubgroup", "RestartSteps", "RestartMode"]

    assert not [name for name in newer if name in text]
