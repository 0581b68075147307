# SPDX-License-Identifier: Apache-2.0
"""The change that docs/upstream proposes to vllm-ascend 0.30: with it our section needs no channel of ours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pairs.marks import on_second_pair
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.emulator, pytest.mark.engine, on_second_pair, pytest.mark.usefixtures("vllm_preloaded")]

PATCH = Path(__file__).parents[2] / "docs" / "upstream" / "additional_config_keys.patch"
FILE = "vllm_ascend/ascend_config.py"


def patched(folder: Path) -> Path:
    """The installed file with the patch applied."""
    import vllm_ascend

    copy = folder / FILE
    copy.parent.mkdir()
    copy.write_text((Path(vllm_ascend.__file__).parents[1] / FILE).read_text(encoding="utf-8"), encoding="utf-8")
    command = ["git", "apply", f"--include={FILE}", str(PATCH)]
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return copy


@pytest.mark.parametrize("is_patched", [True, False])
def test_our_section_passes_and_other_keys_fail(tiny_model: str, tmp_path: Path, is_patched: bool) -> None:
    def job(rank: Rank) -> list[str]:
        import vllm_ascend.ascend_config
        from vllm.engine.arg_utils import EngineArgs

        engine = EngineArgs(model=tiny_model, enforce_eager=True, max_model_len=512)
        vllm_config: Any = engine.create_engine_config()
        file = patched(tmp_path) if is_patched else Path(vllm_ascend.ascend_config.__file__)
        spec = importlib.util.spec_from_file_location("vllm_ascend.ascend_config", file)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)  # in the place of the one that our channel has opened
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        outcomes = []
        for key in ("ascend_ext", "ascend_other"):
            vllm_config.additional_config = {key: {"eplb_load": {"enabled": True}}, "refresh": True}
            try:
                module.init_ascend_config(vllm_config)
                outcomes.append("passes")
            except ValueError as error:
                outcomes.append("names it" if key in str(error) else str(error))
        return outcomes

    [outcomes] = run_ranks(job, Layout(), deadline_s=120)
    assert outcomes == ["passes" if is_patched else "names it", "names it"]
