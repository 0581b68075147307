# SPDX-License-Identifier: Apache-2.0
"""The doctor in installations that lack something: real folders of packages, with some left out or made up."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.host_build import build_host
from vllm_ascend_ext import envs
from vllm_ascend_ext.mtp_output.ring import backend
from vllm_ascend_ext.tools.doctor import checks, collect
from vllm_ascend_ext.tools.doctor.summary import print_summary

ROOT = Path(__file__).resolve().parents[2]
START = (
    "import sys; sys.path[:0] = sys.argv[1:3]; from vllm_ascend_ext.cli import main; sys.exit(main(sys.argv[3:]))"
)
KEYS = {
    "schema",
    "versions",
    "pairs",
    "platform",
    "entry_points",
    "parts",
    "devices",
    "operators",
    "environment",
    "untested",
    "seams",
    "problems",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Makes a folder of packages: this environment's, by links, without some of them."""

    def make(*hidden):
        folder = tmp_path_factory.mktemp("site")
        for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
            package = entry.name.split("-")[0].split(".")[0].lower()
            if package not in hidden and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
        return folder

    return make


@pytest.fixture(scope="module")
def without_vllm(site):
    return doctor(site("vllm"))


def install(folder, name, version):
    """A distribution's metadata without its modules."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def doctor(folder, **environment):
    """Exit status and document of the doctor that sees only the packages of `folder` and this checkout."""
    result = subprocess.run(
        [sys.executable, "-S", "-c", START, str(folder), str(ROOT), "doctor", "--json"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | environment,
    )
    assert "Traceback" not in result.stderr
    document = json.loads(result.stdout)
    assert document.keys() == KEYS
    return result.returncode, document


def problems(document, part):
    return [row for row in document["problems"] if part in row["problem"]]


def test_without_vllm(without_vllm):
    status, document = without_vllm
    assert status == 1
    (row,) = problems(document, "vLLM is not installed")
    assert "scripts/setup.sh" in row["fix"]
    assert document["versions"]["vllm"] is None and document["versions"]["torch"]
    assert set(document["platform"].values()) == {None} and {row["state"] for row in document["seams"]} == {
        "absent"
    }
    parts = {row["part"]: row["active"] for row in document["parts"]}
    del parts["C++ channel of mtp_output"]  # needs no vLLM
    assert parts and not any(parts.values())
    devices = {row["device"]: row for row in document["devices"]}
    assert set(devices) == {"cpu", "cuda", "npu"} and devices["cpu"]["found"]
    assert devices["cpu"]["capabilities"]["side_streams"] is False
    assert {row["device"] for row in document["operators"]} == set(devices)
    assert all((row["kind"] == "reference") == (row["reason"] is not None) for row in document["operators"])
    for row in document["untested"]:
        assert not devices[row["device"]]["found"]
        assert f"vllm_ascend_ext/device/{row['device']}.py" in row["parts"]
        assert f"vllm_ascend_ext/integration/workers/{row['device']}.py" in row["parts"]
    assert [row["name"] for row in document["environment"]] == list(envs.ENVIRONMENT)


def test_without_torch_and_matplotlib(site):
    status, document = doctor(site("vllm", "torch", "matplotlib"))
    assert status == 1
    assert problems(document, "torch is not installed") and problems(document, "matplotlib is not installed")
    assert document["operators"] == [] and not any(row["found"] for row in document["devices"])


def test_untested_vllm_that_cannot_be_imported_and_bad_variable(site):
    folder = site("vllm")
    install(folder, "vllm", "9.9.9")
    status, document = doctor(folder, VLLM_ASCEND_EXT_STRICT_OPS="perhaps")
    assert status == 1
    (row,) = problems(document, "vLLM 9.9.9 is not a tested version")
    assert "vllm==" in row["fix"]
    assert problems(document, "vLLM cannot be imported")
    (row,) = problems(document, "VLLM_ASCEND_EXT_STRICT_OPS='perhaps'")
    assert [row["value"] for row in document["environment"] if row["name"] == "VLLM_ASCEND_EXT_STRICT_OPS"] == [
        None
    ]


@pytest.mark.parametrize(("version", "broken"), [("0.28.0", True), ("0.28.0+{tag}", False)])
def test_torchvision_of_another_build(site, version, broken):
    torch = pytest.importorskip("torch")
    tag = torch.__version__.partition("+")[2]
    if torch.version.cuda is not None or not tag:
        pytest.skip("needs a torch whose version says that it is built for the CPU")
    folder = site("vllm", "torchvision")
    install(folder, "torchvision", version.format(tag=tag))
    found = problems(doctor(folder)[1], "torchvision")
    assert [row["fix"].startswith("`pip uninstall torchvision") for row in found] == [True] * broken


def test_little_shared_memory(monkeypatch):
    monkeypatch.setattr(checks, "_LEAST_SHARED_MIB", 1 << 40)
    assert any("MiB free" in row.problem for row in checks.installation_problems())
    monkeypatch.setattr(checks, "_SHARED_MEMORY", "/no/such/folder")
    assert any("/no/such/folder cannot be used" in row.problem for row in checks.installation_problems())


def test_missing_model(monkeypatch):
    monkeypatch.setattr(checks, "bundled_model", lambda: None)
    assert any("no bundled model" in row.problem for row in checks.installation_problems())


def test_channel_of_mtp_output(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(backend, "FOLDER", tmp_path)
    row = collect._channel_part(found)
    assert not row["active"] and "VLLM_ASCEND_EXT_BUILD=channel" in row["why"] and not found
    (tmp_path / "ascend_ext_channel.cpython-39-x86_64-linux-gnu.so").touch()
    assert not collect._channel_part(found)["active"]
    (problem,) = found
    assert "of another Python" in problem.problem and "VLLM_ASCEND_EXT_BUILD=channel" in problem.fix
    monkeypatch.setattr(backend, "FOLDER", build_host("ascend_ext_channel"))
    row = collect._channel_part(found)
    assert row["active"] and row["why"].startswith(str(backend.FOLDER)) and len(found) == 1


def test_summary_shows_every_section(without_vllm, capsys):
    print_summary(without_vllm[1], Console(width=100))
    text = capsys.readouterr().out
    for heading in (
        "Versions",
        "Parts",
        "Devices",
        "Operators",
        "Environment variables",
        "Untested on this machine",
    ):
        assert heading in text
    assert "reference on cpu: the reference is what runs on the CPU" in text
    assert "✗  vLLM is not installed" in text and "fix: CPU: run scripts/setup.sh" in text
