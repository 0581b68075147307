# SPDX-License-Identifier: Apache-2.0
"""No attribute of a foreign object is set outside the seam module, and the rule sees it when one is."""

from __future__ import annotations

from pathlib import Path

import pytest

import vllm_ascend_ext
from tests.seams.foreign_attributes import ALLOWED, foreign_attributes

ROOT = Path(vllm_ascend_ext.__file__).parent
FILE = "integration/dp_gather/vllm_exchange.py"

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
    "def execute_model(self, x):\n    self.x = x",
    "class A:\n    def f(self):\n        def forward(self):\n            self.x = 1\n        return forward",
    "def f(cls):\n    cls.x = 1",
    "s = setattr\ndef f(r):\n    s(r, 'x', 1)",
    "def f(r):\n    list(map(setattr, [r], ['x'], [1]))",
    "import functools\ndef f(r):\n    functools.partial(object.__setattr__, r, 'x')(1)",
    "def f(r):\n    partial(setattr)(r, 'x', 1)",
    "s = object.__setattr__",
    "def f(r):\n    d = vars(r)\n    d['x'] = 1",
    "def f(r):\n    d = r.__dict__\n    d['x'] = 1",
    "def f(r):\n    r.__dict__ |= {'x': 1}",
    "def f(r):\n    vars(r).pop('x')",
    "def f(r):\n    r.__dict__.setdefault('x', 1)",
    "import operator\ndef f(r):\n    operator.setitem(vars(r), 'x', 1)",
    "def f(r):\n    r.__globals__['x'] = 1",
    "import sys\nsys.modules['vllm.x'] = 1",
    "def f(r):\n    (q := r).x = 1",
    "def f(r):\n    match r:\n        case int() as q:\n            q.x = 1",
    "def f(r):\n    try:\n        r()\n    except Exception as error:\n        error.x = 1",
    "from vllm_ascend_ext.integration.upstream.seams import change\nchange.stand_in(x, 'y', 1)",
]
CORE = [
    "def f(layer):\n    layer.forward = None",
    "def f(layers: Any):\n    layers[0].forward.x = None",
    "import torch\ntorch.cuda.Event = 1",
    "def f(layer: nn.Module):\n    setattr(layer, 'x', 1)",
    "from torch import cuda\ncuda.Event = 1",
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
    "class A:\n    def f(self):\n        self.x, self.y = 1, 2\n        self.z = 1",
    "class A:\n    def f(self):\n        def inner():\n            self.x = 1",
    "def f(x):\n    return dict(vars(x)), x.__dict__.get('y'), 'z' in vars(x), vars(x)['z']",
]


def test_the_package_sets_foreign_attributes_in_the_seam_module_only() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 80
    found = [
        violation
        for file in files
        for violation in foreign_attributes(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("source", SEEDED)
def test_a_foreign_attribute_is_found(source: str) -> None:
    assert list(foreign_attributes(FILE, source))


@pytest.mark.parametrize("source", OURS)
def test_what_is_ours_passes(source: str) -> None:
    assert not list(foreign_attributes(FILE, source))


@pytest.mark.parametrize("source", CORE)
def test_the_core_sets_no_attribute_of_what_it_is_handed(source: str) -> None:
    assert list(foreign_attributes("runner/mixin.py", source))


def test_the_seam_module_and_what_the_core_makes_are_left_alone() -> None:
    assert not list(foreign_attributes("integration/upstream/seams/change.py", SEEDED[0]))
    assert not list(foreign_attributes("runner/mixin.py", "def f():\n    for x in made():\n        x.n = 1"))


@pytest.mark.parametrize("path", ALLOWED)
def test_no_exception_outlives_its_use(path: str) -> None:
    found = list(foreign_attributes(path.replace(".py", "_.py"), (ROOT / path).read_text(encoding="utf-8")))
    for target in ALLOWED[path]:
        assert any(f"sets {target} of" in violation for violation in found), target
