# SPDX-License-Identifier: Apache-2.0
"""vLLM imports the plug-in in every process, also where nothing of it is used: that must cost next to nothing."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
before = set(sys.modules)
import vllm_ascend_ext.integration.startup.plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {"torch", "vllm", "pydantic", "numpy", "rich", "transformers"}


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    modules = json.loads(done.stdout)
    assert not HEAVY & {module.split(".")[0] for module in modules}
    ours = [module for module in modules if module.startswith("vllm_ascend_ext")]
    assert ours == [
        "vllm_ascend_ext",
        "vllm_ascend_ext.integration",
        "vllm_ascend_ext.integration.startup",
        "vllm_ascend_ext.integration.startup.plugin",
    ]
