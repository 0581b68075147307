# SPDX-License-Identifier: Apache-2.0
"""Defines the package's configuration: one frozen section a feature, everything off until asked for.

It is read from vLLM's ``additional_config["ascend_ext"]``, so that one command line carries all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

KEY = "ascend_ext"
_SIMILARITY = 0.85  # of two spellings, from which on a sibling key counts as a misspelt KEY


class ConfigError(ValueError):
    """Reports a wrong configuration; the message has one line for each problem."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EplbLoadConfig(_Section):
    """Configures the collection of expert load: how many tokens were routed to each expert.

    Attributes:
        interval: steps between two snapshots.
        phase: which steps count. A step is `decode` when no replica has more rows in it than all its requests
            together have when each only decodes, else it is `prefill`.
        aggregation: how the ranks' counts are added up: `host`, by Gloo on a thread after the copy to the host, or
            `device`, by the device's collectives on the side stream.
        slots: how many snapshots may be in transfer at the same time; when all are, counts stay and join the next
            snapshot.
        deadline_s: longest time that any wait may take, in seconds.
        rebalance: whether vLLM's EPLB, or vllm-ascend's, decides by these counts instead of its own.
        rebalance_lead: steps between the end of the counts that a rebalancing uses and the rebalancing.
    """

    enabled: bool = False
    interval: int = Field(default=100, ge=1)
    phase: Literal["all", "prefill", "decode"] = "all"
    aggregation: Literal["host", "device"] = "host"
    slots: int = Field(default=2, ge=1, le=16)
    deadline_s: float = Field(default=60.0, gt=0, le=3600)
    rebalance: bool = False
    rebalance_lead: int = Field(default=8, ge=1)


class DpGatherConfig(_Section):
    """Configures how the rows of data-parallel replicas reach the experts and come back.

    Attributes:
        rule: `auto`, by the rows that the gather sends (the comparison in SGLang 0.5.23's rule), or `cost`, by the
            predicted time of gather, padded expert rows and combine on `machine`.
        mode: the mode to use whatever the rule says; `planned` leaves the choice to the rule.
        machine: a known machine's name, or a file that `benchmarks/dp_gather.py` wrote.
        overlap_counts: whether the replicas' row counts of a pass are exchanged beside its first layers, not
            before it.
        counts_ahead: whether the scheduler commits to how many rows the next pass has at most, so that replicas
            which all only decode know each other's counts without asking; new requests wait for one pass at most.
        deadline_s: longest time that any exchange may take, in seconds (where the device's collectives are in
            stream order, the group's own deadline counts).
    """

    enabled: bool = False
    rule: Literal["auto", "cost"] = "auto"
    mode: Literal["planned", "max_len", "sum_len", "variable"] = "planned"
    machine: str = ""
    overlap_counts: bool = False
    counts_ahead: bool = False
    deadline_s: float = Field(default=60.0, gt=0, le=3600)


class AttnScatterConfig(_Section):
    """Configures scattered attention input: norms and the first projection of attention on a shard of the rows.

    Attributes:
        full: whether to reduce-scatter after attention too, so that the second norm and the router run on the
            shard.
        fp8_wire: whether, with `full`, the rows for the experts and the MLP are gathered in FP8.
        odd_rows: what happens in a step whose rows the ranks do not divide: `pad` exchanges equal shards, with
            zero rows below the own; `uneven` exchanges the own rows only, by all-to-alls.
        min_tokens: rows of a step from which on it is scattered; None for the cost model's threshold, and with
            vllm-ascend's FlashComm v1 for its range of rows.
    """

    enabled: bool = False
    full: bool = False
    fp8_wire: bool = False
    odd_rows: Literal["pad", "uneven"] = "pad"
    min_tokens: int | None = Field(default=None, ge=1)


class MtpOutputConfig(_Section):
    """Configures MTP output saving: each step's accepted tokens, copied to the host once on one rank of a replica
    and sent to readers as a frame.

    Attributes:
        transport: the way of frames, to readers on this machine (`ring`) or on others (`zmq`).
        endpoint: the address "tcp://HOST:PORT" of replica 0 with `zmq`; replica r listens at PORT + r.
        reader: `required`: a full ring blocks the engine until a reader acknowledges. `none`: only observers look,
            and each frame is given up once it was sent.
        instance: tells engines on one machine apart; the same after a restart.
        top_k: log-probabilities that a frame carries at most, beside the sampled token's own; 0: none.
        frames: how many frames may wait for the reader.
        deadline_s: longest time that a slow reader may hold up the engine, and that any other wait may take, in
            seconds.
        slots: how many steps may be on their way to the host at the same time.
        save_each_rank: FastDeploy's name. One rank of every replica sends whether it is set or not.
    """

    enabled: bool = False
    transport: Literal["ring", "zmq"] = "ring"
    endpoint: str = ""
    reader: Literal["required", "none"] = "required"
    instance: int = Field(default=0, ge=0, le=2**32 - 1)
    top_k: int = Field(default=20, ge=0, le=1000)
    frames: int = Field(default=64, ge=2, le=2**16)
    deadline_s: float = Field(default=60.0, gt=0, le=3600)
    slots: int = Field(default=2, ge=1, le=16)
    save_each_rank: bool = False


class ExtConfig(_Section):
    """Holds all sections. Equal configurations hash equally, as vLLM's own hash of its configuration needs.

    Attributes:
        mend_races: whether races of vllm-ascend itself are mended in our worker, as with temperature > 0
            (vllm-ascend #13673). Nothing that is computed changes.
    """

    eplb_load: EplbLoadConfig = EplbLoadConfig()
    dp_gather: DpGatherConfig = DpGatherConfig()
    attn_scatter: AttnScatterConfig = AttnScatterConfig()
    mtp_output: MtpOutputConfig = MtpOutputConfig()
    mend_races: bool = True

    @classmethod
    def sections(cls) -> tuple[str, ...]:
        """Returns the names of the features' sections, in the order of their declaration."""
        return tuple(name for name in cls.model_fields if _section(cls, name) is not None)

    @classmethod
    def from_additional_config(cls, additional_config: Mapping[str, object] | None) -> ExtConfig | None:
        """Reads ``additional_config["ascend_ext"]``.

        Returns:
            The configuration, or None when the key is absent.

        Raises:
            ConfigError: an unknown key at any depth, a value of the wrong type, a section that is not a
                mapping, or a sibling key that is a misspelt ``ascend_ext``.
        """
        config, problems = cls.salvage(additional_config)
        if problems:
            raise ConfigError("\n".join(problems))
        return config

    @classmethod
    def salvage(cls, additional_config: Mapping[str, object] | None) -> tuple[ExtConfig | None, list[str]]:
        """Reads what is right in ``additional_config["ascend_ext"]``, so that the rest of a configuration can be
        checked beside what is wrong there.

        Returns:
            The configuration without what is wrong, or None when there is nothing to go by, and a line for each
            problem (see `from_additional_config`).
        """
        if additional_config is None:
            return None, []
        problems = [
            f"additional_config.{key}: unknown key; did you mean {KEY!r}?"
            for key in additional_config
            if key != KEY and _is_misspelt(str(key))
        ]
        if KEY not in additional_config:
            return None, problems
        value = additional_config[KEY]
        if not isinstance(value, Mapping):
            return None, [*problems, f"{KEY}: expected a mapping, got {_describe(value)}"]
        problems += _unknown_keys(cls, value, KEY)
        known: Any = _plain(value)
        try:
            return cls.model_validate(known), problems
        except ValidationError as error:
            problems += _wrong_values(cls, error)
            for wrong in error.errors():
                _remove(known, wrong["loc"])
        return cls.model_validate(known), problems

    def features(self) -> tuple[str, ...]:
        """Returns the names of the enabled sections, in the order of their declaration."""
        return tuple(name for name in self.sections() if getattr(self, name).enabled)


def _is_misspelt(key: str) -> bool:
    def letters(text: str) -> str:
        return "".join(character for character in text.lower() if character.isalnum())

    wanted, given = letters(KEY), letters(key).removeprefix("vllm")
    return difflib.SequenceMatcher(None, wanted, given).ratio() >= _SIMILARITY


def _describe(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _plain(value: object) -> object:
    """Converts nested mappings to dicts, which strict pydantic wants, and leaves out keys that are not text."""
    if not isinstance(value, Mapping):
        return value
    return {key: _plain(item) for key, item in value.items() if isinstance(key, str)}


def _remove(value: Any, location: Sequence[int | str]) -> None:
    """Takes the entry at a path of keys out of nested dicts, if it is still there."""
    *parents, last = location
    for parent in parents:
        value = value.get(parent, {})
    value.pop(last, None)


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Returns the model of field `name` of `model`, or None when the field holds a plain value."""
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _unknown_keys(model: type[BaseModel], value: Mapping[object, object], path: str) -> Iterator[str]:
    valid = list(model.model_fields)
    for key, item in value.items():
        if key not in valid:
            nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)[0]
            yield f"{path}.{key}: unknown key; did you mean {nearest!r}? Valid keys: {', '.join(valid)}"
            continue
        section = _section(model, str(key))
        if section is not None and isinstance(item, Mapping):
            yield from _unknown_keys(section, item, f"{path}.{key}")


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _wrong_values(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        if problem["type"] == "extra_forbidden":
            continue  # _unknown_keys says more
        location = tuple(str(part) for part in problem["loc"])
        path = ".".join((KEY, *location))
        yield f"{path}: expected {_expected(model, location)}, got {_describe(problem['input'])}"


def _expected(model: type[BaseModel], location: Sequence[str]) -> str:
    name, *rest = location
    section = _section(model, name)
    if section is not None:
        return _expected(section, rest) if rest else "a mapping"
    field = model.model_fields[name]
    bounds = [
        f"{words} {getattr(bound, key):g}"
        for bound in field.metadata
        for key, words in _BOUNDS.items()
        if hasattr(bound, key)
    ]
    return " ".join([_type_in_words(field.annotation), *" and ".join(bounds).split()])


def _type_in_words(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("None", "null")
