# SPDX-License-Identifier: Apache-2.0
"""The emulator's build key, lock and clean-up, its launcher's environment, and how marker expressions are read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.child_reports import ChildReports
from emulator.launcher import build, environment, places, supported
from emulator.selection import selects_only

ROOT = Path(__file__).resolve().parents[3]
MARKERS = ("npu", "emulator")


def _sources(folder):
    """The emulator's folder in a checkout that is `folder`."""
    emulator = folder / "emulator"
    (emulator / "csrc" / "core").mkdir(parents=True)
    (emulator / "CMakeLists.txt").write_text("project(x)")
    (emulator / "csrc" / "core" / "a.cpp").write_text("int a;")
    (emulator / "csrc" / "core" / "b.cpp").write_text("int b;")
    return emulator


def _key(emulator, versions=("2.13.0", "g++ 12")):
    root = emulator.parent
    return build.digest(build.source_files(emulator, (root / "csrc_ascendc", root / "cmake")), versions, root)


def test_the_key_changes_with_sources_and_versions(tmp_path):
    sources = _sources(tmp_path)
    keys = {_key(sources)}
    assert _key(sources) in keys and build.KEY.fullmatch(_key(sources))
    keys.add(_key(sources, ("2.13.1", "g++ 12")))
    keys.add(_key(sources, ("2.13.0", "g++ 13")))
    (sources / "csrc" / "core" / "a.cpp").write_text("int a2;")
    keys.add(_key(sources))
    (sources / "csrc" / "core" / "a.cpp").rename(sources / "csrc" / "core" / "c.cpp")
    keys.add(_key(sources))
    (sources / "csrc" / "core" / "new.h").write_text("")
    keys.add(_key(sources))
    (sources / "CMakeLists.txt").write_text("project(y)")
    keys.add(_key(sources))
    for other in ("csrc_ascendc/expert_load/kernel.h", "cmake/binding.cmake"):
        (tmp_path / other).parent.mkdir(parents=True)
        (tmp_path / other).write_text("")
        keys.add(_key(sources))
    assert len(keys) == 9


def test_the_key_does_not_change_with_caches_and_times(tmp_path):
    sources = _sources(tmp_path)
    key = _key(sources)
    (sources / "csrc" / "__pycache__").mkdir()
    (sources / "csrc" / "__pycache__" / "generate.pyc").write_bytes(b"x")
    os.utime(sources / "csrc" / "core" / "a.cpp", (0, 0))
    assert _key(sources) == key


def test_moving_text_between_files_changes_the_key(tmp_path):
    sources = _sources(tmp_path)
    key = _key(sources)
    (sources / "csrc" / "core" / "a.cpp").write_text("int a;int b;")
    (sources / "csrc" / "core" / "b.cpp").write_text("")
    assert _key(sources) != key


HOLDER = """
import sys, time
from pathlib import Path
from emulator.launcher import build
with build.lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
    Path(sys.argv[1], "first").touch()
"""


def test_the_lock_makes_a_second_process_wait(tmp_path, capfd):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout.readline() == "held\n"
        code = "import sys; from pathlib import Path; from emulator.launcher import build\n" \
               "with build.lock(Path(sys.argv[1])): assert Path(sys.argv[1], 'first').exists()"  # fmt: skip
        second = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert "another process is building" in second.stderr.readline()
        first.stdin.write("\n")
        first.stdin.close()
        assert second.wait(timeout=60) == 0
        second.stderr.close()
    with build.lock(tmp_path):
        pass


def test_old_builds_go_and_the_current_one_stays(tmp_path):
    keys = [f"{number:016x}" for number in range(5)]
    for age, key in enumerate(keys):
        (tmp_path / key / "lib").mkdir(parents=True)
        os.utime(tmp_path / key, (1000 - age, 1000 - age))
    for name in ("objects-0", "objects-1", "reports"):
        (tmp_path / name).mkdir()
    build.remove_old(tmp_path, keep=keys[4], objects="objects-0", builds_kept=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [keys[0], keys[4], "objects-0", "reports"]


def test_a_build_in_use_stays(tmp_path):
    for age in range(4):
        (tmp_path / f"{age:016x}").mkdir()
        os.utime(tmp_path / f"{age:016x}", (1000 - age, 1000 - age))
    used = tmp_path / f"{3:016x}"
    code = "import os, sys; from pathlib import Path; from emulator.launcher import build\n" \
           "build.hold(Path(sys.argv[1])); os.execvp('cat', ['cat'])"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as program:
        program.stdin.write(b"x\n")
        program.stdin.flush()
        program.stdout.readline()  # it has become another program
        os.utime(used, (997, 997))
        build.remove_old(tmp_path, keep=f"{0:016x}", objects="", builds_kept=2)
        assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["0", "1", "3"]
        program.stdin.close()
    build.remove_old(tmp_path, keep=f"{0:016x}", objects="", builds_kept=2)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_missing_tool_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "PLACES", places.checkout(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(places.EmulatorError, match="ninja not found: the emulator is built with"):
        build.tool("ninja", "is built with Ninja")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(places.EmulatorError, match="no-such-compiler not found"):
        build.compiler()


def test_a_failed_build_step_shows_its_output(tmp_path, capfd):
    command = [sys.executable, "-c", "print('a.cpp:1: error: x'); raise SystemExit(3)"]
    with pytest.raises(places.EmulatorError, match=re.escape(str(tmp_path / "log"))):
        build.run_logged(command, tmp_path / "log")
    assert "a.cpp:1: error: x" in capfd.readouterr().err
    assert "a.cpp:1: error: x" in (tmp_path / "log").read_text()


def test_the_environment_of_a_process_on_the_emulator(tmp_path):
    libraries = tmp_path / "key" / "lib"
    before = {
        "PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "ASCEND_CUSTOM_OPP_PATH": "/opt/opp",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "no emulator", "EMULATOR_SEED": "3",
    }  # fmt: skip
    variables = environment.emulator_variables(before, libraries)
    assert variables["PATH"] == f"{places.PLACES.npu.commands}:/usr/bin"
    assert variables["LD_LIBRARY_PATH"] == f"{libraries}:/opt/lib"
    assert variables["VLLM_ASCEND_EXT_LIB"] == str(libraries)
    assert variables["TASK_QUEUE_ENABLE"] == "0" and variables["EMULATOR_SEED"] == "3"
    assert "ASCEND_CUSTOM_OPP_PATH" not in variables and "TORCH_DEVICE_BACKEND_AUTOLOAD" not in variables
    assert Path(variables["ASCEND_HOME_PATH"]).is_dir() and Path(variables["ASCEND_OPP_PATH"]).is_dir()
    assert environment.emulator_variables(variables, libraries) == variables
    newer = environment.emulator_variables(variables, tmp_path / "newer" / "lib")
    assert newer["LD_LIBRARY_PATH"] == f"{tmp_path / 'newer' / 'lib'}:/opt/lib"
    kept = environment.emulator_variables(before | {"TASK_QUEUE_ENABLE": "2"}, libraries)
    assert kept["TASK_QUEUE_ENABLE"] == "2"


def test_the_version_is_told_in_a_file_as_by_the_library(tmp_path):
    (told,) = environment.cann_home(tmp_path / "key" / "lib").glob("ascend_*_install.info")
    version = told.read_text().strip().partition("version=")[2]
    assert f'kCannVersion = "{version}"' in (ROOT / "emulator/csrc/acl/system.cpp").read_text()


def test_a_real_cann_is_noticed_and_the_emulators_own_is_not(tmp_path):
    (tmp_path / "libascendcl.so").touch()
    assert environment.real_cann({"ASCEND_HOME_PATH": "/opt/cann"}) == "ASCEND_HOME_PATH=/opt/cann"
    assert environment.real_cann({"LD_LIBRARY_PATH": f"/x:{tmp_path}"}) == str(tmp_path / "libascendcl.so")
    own = environment.emulator_variables({}, tmp_path / "key" / "lib")
    assert environment.real_cann(own) is None


def test_an_installed_emulator_leaves_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = places.installed()
    assert here.cache == tmp_path / "ascend-emulator" and here.torch is here.npu
    before = {"PATH": "/usr/bin", "HF_HOME": "/models", "VIRTUAL_ENV": "/own"}
    assert environment.settings(before, here) == before
    variables = environment.emulator_variables(before, tmp_path / "key" / "lib", here)
    assert "VLLM_ASCEND_EXT_LIB" not in variables and variables["VIRTUAL_ENV"] == "/own"
    assert variables["PATH"] == f"{here.npu.commands}:/usr/bin"


def test_an_environment_names_what_it_lacks(tmp_path, monkeypatch):
    here = places.checkout(tmp_path)
    with pytest.raises(places.EmulatorError, match=r"\.venv is missing or incomplete .*setup_npu\.sh"):
        here.check()
    with pytest.raises(places.EmulatorError, match=r"no torch_npu in .*\.venv-npu: run \./scripts/setup_npu\.sh"):
        here.npu.package("torch_npu")
    with pytest.raises(places.EmulatorError, match=r"no .*emulator\.pth.*not as editable"):
        places.installed().check()


def test_only_pairs_and_machines_that_were_tried_are_taken(monkeypatch):
    supported.check_pair("2.13.0+cpu", "2.13.0")
    for pair in (("2.13.0", "2.10.0.post4"), ("2.10.0", "2.10.0.post4"), ("2.14.0", "2.14.0")):
        with pytest.raises(places.EmulatorError, match="supported are: torch 2.13.0 with torch_npu 2.13.0"):
            supported.check_pair(*pair)
    monkeypatch.setattr(supported.platform, "machine", lambda: "riscv64")
    with pytest.raises(places.EmulatorError, match="riscv64 is not supported; supported are: x86_64, aarch64"):
        supported.machine()
    monkeypatch.setattr(supported.platform, "machine", lambda: "aarch64")
    assert "does not know what an instruction touches" in supported.machine()


@pytest.mark.parametrize(
    "expression",
    ["npu", "emulator", "npu or emulator", "npu and not slow", "(npu or emulator) and engine",
     "not slow and npu", "npu and (engine or slow)", "not (not npu)", "emulator and slow or npu"],
)  # fmt: skip
def test_expressions_that_ask_for_the_emulator_alone(expression):
    assert selects_only(expression, MARKERS)


@pytest.mark.parametrize(
    "expression", ["", "not npu", "engine", "npu or engine", "not engine", "npu or not emulator", "not a real one"]
)
def test_expressions_that_ask_for_more(expression):
    assert not selects_only(expression, MARKERS)


def test_reports_of_children_are_taken_once(tmp_path):
    reports = ChildReports(tmp_path)
    assert reports.take() == []
    (tmp_path / f"{os.getpid()}.txt").write_text("own\n")
    (tmp_path / "1.txt").write_text("race A\n")
    assert reports.take() == ["process 1:\nrace A"]
    assert reports.take() == []
    with open(tmp_path / "1.txt", "a") as file:
        file.write("race B\n")
    (tmp_path / "2.txt").write_text("race C\n")
    assert reports.take() == ["process 1:\nrace B", "process 2:\nrace C"]
