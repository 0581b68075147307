# SPDX-License-Identifier: Apache-2.0
"""Builds many engine configurations in one process, because importing vLLM takes ten seconds.

Reads {name: {"arguments": ..., "environment": ..., "device": ...}} as JSON from standard input and writes, as
the last line, {name: [type of the error, message]}, with null where the configuration is accepted. A `device`
has the plug-in check the finished configuration again, with dual-batch overlap and that device's worker.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def outcome(arguments: dict[str, Any], environment: dict[str, str], device: str | None) -> tuple[str, str] | None:
    """Returns what building one configuration ends in."""
    from vllm.engine.arg_utils import EngineArgs

    from vllm_ascend_ext.integration.startup.activation import configure

    before = dict(os.environ)
    os.environ.update(environment)
    try:
        worker = arguments.pop("worker_cls", "auto") if device else arguments.get("worker_cls", "auto")
        vllm_config = EngineArgs(**arguments).create_engine_config()
        if device is not None:
            vllm_config.parallel_config.worker_cls = worker
            vllm_config.parallel_config.enable_dbo = True
            configure(vllm_config, device)
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return None


def main() -> None:
    cases = json.load(sys.stdin)
    outcomes = {name: outcome(**case) for name, case in cases.items()}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
