# SPDX-License-Identifier: Apache-2.0
"""Lists everything of vLLM and vllm-ascend that we replace, wrap, override or read privately.

`rows/` is the table, `check` holds it against the installed versions, and `change` has the only functions that set
an attribute of theirs.
"""
