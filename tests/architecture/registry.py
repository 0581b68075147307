# SPDX-License-Identifier: Apache-2.0
"""Every rule, and for each at least one violation to plant. A new file of rules is appended to both lists here."""

from __future__ import annotations

from tests.architecture import (
    cpp_rules,
    import_rules,
    plants,
    python_rules,
    target_rules,
    tree_rules,
)
from tests.architecture.tree import Rule

RULES: list[Rule] = [
    *import_rules.RULES,
    *target_rules.RULES,
    *python_rules.RULES,
    *cpp_rules.RULES,
    *tree_rules.RULES,
]
PLANTS: list[plants.Plant] = [*plants.PLANTS]
