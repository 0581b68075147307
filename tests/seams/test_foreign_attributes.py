# SPDX-License-Identifier: Apache-2.0
"""The rule of the guard that attributes of foreign objects are set in the seam module only."""

from __future__ import annotations

from pathlib import Path

import pytest

import vllm_ascend_ext
from tests.architecture.foreign_attributes import ALLOWED, foreign_attributes

ROOT = Path(vllm_ascend_ext.__file__).parents[1]
FILE = "vllm_ascend_ext/integration/dp_gather/vllm_exchange.py"

SEEDED = [
    "def bind(runner, f):\n    runner.execute_model = f",
    "def bind(layer, g):\n    layer.forward_impl = g",
    "def capture(layer, c):\n    setattr(layer, _HOOK, c)",
    "def activate(platform_class, f):\n    platform_class.check_and_update_config = staticmethod(f)",
    "def bind(method, exchange):\n    method.prepare_finalize._prepare_with_dp_group = exchange.prepare",
    "def f(layer):\n    del layer.dynamic_eplb",
    "def f(layer):\n    delattr(layer, 'dynamic_eplb')",
    "def f(x: int) -> None:\n    import torch\n    torch.cuda.Event = x",
    "import vllm.envs as envs\nenvs.VLLM_USE_RAY = True",
    "def f(config):\n    config.a, x = 1, 2",
    "def f(stats):\n    stats.n += 1",
    "def f(owner):\n    owner.name: int = 1",
    "def f(owners):\n    for owners[0].name in range(3):\n        pass",
    "def f(owner, x):\n    with x as owner.name:\n        pass",
    "def f(owner):\n    owner.__dict__['name'] = 1",
    "def f(owner):\n    vars(owner)['name'] = 1",
    "def f(owner):\n    owner.__dict__.update(name=1)",
    "def f(owner):\n    object.__setattr__(owner, 'name', 1)",
    "def f(owner):\n    return partial(setattr, owner, 'name')",
    "class A:\n    def f(self, output):\n        self._output = output\n        self._output.logprobs = None",
    "class A:\n    _output: ModelRunnerOutput\n    def f(self):\n        self._output.logprobs = None",
    "from vllm_ascend_ext.integration.x import Ours\ndef f(x):\n    y = Ours()\n    y = x\n    y.name = 1",
    "from vllm_ascend_ext.integration.x import Ours\ndef f(x):\n    y, z = x\n    y.name = 1",
    "from vllm_ascend_ext.integration.x import Ours\ndef f(x: list[Ours]):\n    x.name = 1",
    "from vllm_ascend_ext.integration.x import Ours\ndef f(x: Ours | Theirs):\n    x.name = 1",
    "from vllm_ascend_ext.integration.x import make\ndef f():\n    y = make()\n    y.name = 1",
    "from vllm.x import Theirs\ndef f():\n    y = Theirs()\n    y.name = 1",
    "from vllm_ascend_ext.x import Planner\ndef f(x: Planner, a):\n    for x in a:\n        x.n = 1",
    "from vllm_ascend_ext.x import Planner\ndef f(a, x: Planner):\n    return [setattr(x, 'n', 1) for x in a]",
    "class A:\n    def __init__(self):\n        self.x = A()\n\ndef f(runner):\n    runner.x.y = 1",
]
OURS = [
    "class A:\n    def f(self):\n        self.x = 1\n        setattr(self, 'y', 2)",
    "class A:\n    @classmethod\n    def f(cls):\n        cls.x = 1",
    "class A:\n    def __init__(self):\n        self.a = A()\n    def f(self):\n        self.a.x += 1",
    "from vllm_ascend_ext.x import Planner\ndef f(x: Planner | None):\n    x.counts = 1",
    "from vllm_ascend_ext.x import Planner\ndef f(make):\n    x: Planner = make()\n    x.counts = 1",
    "from vllm_ascend_ext.x import Planner\ndef f():\n    x = Planner()\n    x.counts = 1",
    "from vllm_ascend_ext.x import Planner\ndef f(a):\n    y = [x for x in a]\n    x: Planner = y[0]\n    x.n = 1",
    "def f():\n    def hook():\n        pass\n    hook.is_ours = True",
    "def f(x):\n    x['name'] = 1\n    x[0] += 1\n    del x['name']",
    "def f(x):\n    x.update(name=1)",
]


@pytest.mark.parametrize("source", SEEDED)
def test_a_foreign_attribute_is_found(source: str) -> None:
    assert list(foreign_attributes(FILE, source))


@pytest.mark.parametrize("source", OURS)
def test_what_is_ours_passes(source: str) -> None:
    assert not list(foreign_attributes(FILE, source))


def test_the_seam_module_and_other_rooms_are_left_alone() -> None:
    for path in ("vllm_ascend_ext/integration/upstream/seams/change.py", "vllm_ascend_ext/runner/mixin.py"):
        assert not list(foreign_attributes(path, SEEDED[0]))


@pytest.mark.parametrize("path", ALLOWED)
def test_no_exception_outlives_its_use(path: str) -> None:
    found = list(foreign_attributes(f"{path}x", (ROOT / path).read_text(encoding="utf-8")))
    for target in ALLOWED[path]:
        assert any(f"sets {target} of" in violation for violation in found), target
