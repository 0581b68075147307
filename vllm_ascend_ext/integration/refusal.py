# SPDX-License-Identifier: Apache-2.0
"""Describes as data which settings a feature cannot work with: every feature's table of rules is checked at
start-up, all of it at once, and printed into docs/refusals.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from vllm_ascend_ext.integration.deployment import Deployment

KEY = "ascend_ext"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Holds one reason why a configuration cannot start.

    Attributes:
        subject: the part that refuses, "ascend_ext.<feature>", or "" for a platform, which the reason then names.
        setting: the setting to change, as its user writes it.
        why: the reason, which continues the subject.
        instead: advice what to do.
    """

    subject: str
    setting: str
    why: str
    instead: str

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        return f"{self.subject} {self.why}; {self.instead}".lstrip()


@dataclass(frozen=True, slots=True)
class Rule:
    """Decides whether a deployment has one setting that a feature cannot work with.

    Attributes:
        setting: as in `Refusal`.
        why: as in `Refusal`; names in braces stand for values that `refuses` returns.
        instead: as in `Refusal`, with names in braces like `why`.
        refuses: function of the deployment that returns something false where all is well, else true or the values
            of the names in braces.
        key: the part of the feature's section that refuses, for example "rebalance"; "" for the whole feature.
        stack: the name of the only stack that the rule is about; "" for all of them.
    """

    setting: str
    why: str
    instead: str
    refuses: Callable[[Deployment], object]
    key: str = ""
    stack: str = ""

    def subject(self, feature: str) -> str:
        """Returns what refuses: ascend_ext, the feature and the key, joined by dots."""
        return ".".join(filter(None, (KEY, feature, self.key)))

    def check(self, feature: str, deployment: Deployment) -> Refusal | None:
        """Returns the refusal of this deployment, or None."""
        if self.stack not in ("", deployment.stack.name):
            return None
        found = self.refuses(deployment)
        if not found:
            return None
        values = found if isinstance(found, Mapping) else {}
        texts = (self.subject(feature), self.setting, self.why, self.instead)
        return Refusal(*(_filled(text, values) for text in texts))


def _filled(text: str, values: Mapping[str, object]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: str(values[name[1]]), text)


def refusals(feature: str, rules: Iterable[Rule], deployment: Deployment) -> list[Refusal]:
    """Returns all refusals of a deployment by the rules of one feature, in their order."""
    return [refusal for rule in rules if (refusal := rule.check(feature, deployment)) is not None]
