# SPDX-License-Identifier: Apache-2.0
"""csrc_ascendc/renamed.h: old and new names of AscendC's functions, whichever a CANN declares."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.host_build import ROOT

COMMON = """
#include <cstdint>
#include <cstdio>
#define __aicore__
struct half {};
namespace AscendC {
template <typename T> struct LocalTensor {};
enum class CMPMODE { EQ };
inline void Say(const char* what) { puts(what); }
template <typename T> using Tensor = const LocalTensor<T>&;
"""
OLD = """
template <typename T, bool set = true>
void BlockReduceSum(Tensor<T>, Tensor<T>, int, int, int, int, int) { Say("old"); }
template <typename T, bool set = true>
void PairReduceSum(Tensor<T>, Tensor<T>, int, int, int, int, int) { Say("old"); }
template <typename T, typename U>
void CompareScalar(Tensor<U>, Tensor<T>, const T, CMPMODE, uint32_t) { Say("old"); }
inline void SetAtomicNone() { Say("old"); }
"""
NEW = """
enum class ReduceType { SUM, MAX };
template <ReduceType type, typename T, typename U, bool set = true>
void ReduceDataBlock(Tensor<T>, Tensor<U>, int, int, int, int, int) {
  Say(type == ReduceType::SUM ? "new" : "max");
}
template <ReduceType type, typename T, typename U, bool set = true>
void ReducePairElem(Tensor<T>, Tensor<U>, int, int, int, int, int) {
  Say(type == ReduceType::SUM ? "new" : "max");
}
template <typename T, typename U>
void Compares(Tensor<U>, Tensor<T>, const T, CMPMODE, uint32_t) { Say("new"); }
inline void DisableDmaAtomic() { Say("new"); }
"""
PROGRAM = """
#include "renamed.h"
int main() {
  AscendC::LocalTensor<half> halves;
  AscendC::LocalTensor<uint8_t> bits;
  ascend_ext::SumOfBlocks(halves, halves, 1);
  ascend_ext::SumOfPairs(halves, halves, 1);
  ascend_ext::EqualsScalar(bits, halves, half{}, 128);
  ascend_ext::EndAtomicAdd();
}
"""


@pytest.mark.parametrize(
    ("declared", "called"),
    [(OLD, ["old"] * 4), (NEW, ["new"] * 4), (OLD + NEW, ["new", "new", "old", "new"])],
    ids=["old", "new", "both"],
)
def test_what_is_declared_is_called(tmp_path: Path, declared: str, called: list[str]) -> None:
    (tmp_path / "kernel_operator.h").write_text(COMMON + declared + "}\n", encoding="utf-8")
    (tmp_path / "main.cpp").write_text(PROGRAM, encoding="utf-8")
    command = ["g++", "-std=c++17", "-I", tmp_path, "-I", ROOT / "csrc_ascendc", tmp_path / "main.cpp"]
    command += ["-o", tmp_path / "main"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=20, check=True)
    assert ran.stdout.split() == called
