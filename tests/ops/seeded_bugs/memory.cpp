// SPDX-License-Identifier: Apache-2.0
#include "bugs.h"

namespace bugs {
namespace {

void CopyRounded(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopy(ub.a, Global(in), broken ? 10 : 8);  // here
}

void StoreRounded(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, broken ? 63 : 64);  // here
}

void UbMisaligned(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopyPad(ub.a[broken ? 1 : 8], Global(in), Bytes(32), {false, 0, 0, 0});  // here
}

void VectorMisaligned(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a[broken ? 4 : 8], 0, 16);  // here
}

void GmMisaligned(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopyPad(ub.a, Global(in + (broken ? 2 : 4), 64), Bytes(32), {false, 0, 0, 0});  // here
}

void BlockLength(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopyPad(ub.a, Global(in), Bytes(broken ? 6 : 8), {false, 0, 0, 0});  // here
}

void BlockCount(bool broken, GM_ADDR in, GM_ADDR) {
  TPipe pipe;
  TBuf<> buffer;
  pipe.InitBuffer(buffer, 4096 * 32);
  const DataCopyExtParams params{static_cast<uint16_t>(broken ? 4096 : 4095), 4, 0, 0, 0};
  DataCopyPad(buffer.Get<int32_t>(), Global(in), params, {false, 0, 0, 0});  // here
}

void TooMuchPadding(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopyPad(ub.a, Global(in), Bytes(4), {true, 0, static_cast<uint8_t>(broken ? 9 : 7), 0});  // here
}

void WidePadding(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  GlobalTensor<int64_t> from;
  from.SetGlobalBuffer(reinterpret_cast<int64_t*>(in), 8);
  DataCopyPad(ub.a.ReinterpretCast<int64_t>(), from, Bytes(8), {true, 0, 3, broken ? 7 : 0});  // here
}

void UbCapacity(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  TBuf<> buffer, other;
  pipe.InitBuffer(buffer, 188160 - 32);
  pipe.InitBuffer(other, broken ? 64 : 32);  // here
}

void UbBounds(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 0, broken ? 72 : 64);  // here
}

void BufferCount(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  TBuf<> buffers[65];
  for (int i = 0; i < (broken ? 65 : 64); ++i) {
    pipe.InitBuffer(buffers[i], 32);  // here
  }
}

void SecondPipe(bool broken, GM_ADDR, GM_ADDR) {
  {
    TPipe pipe;
  }
  TPipe pipe;
  if (broken) TPipe another;  // here
}

void GmBounds(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopy(ub.a, Global(in, 2 * kWords)[kWords - 64 + (broken ? 8 : 0)], 64);  // here
}

void GmElsewhere(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  int32_t elsewhere[64] = {};
  DataCopy(ub.a, Global(broken ? reinterpret_cast<GM_ADDR>(elsewhere) : in), 64);  // here
}

void GmSize(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopy(ub.a, Global(in, broken ? 32 : 64), 64);  // here
}

void GmReadOnly(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 0, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(broken ? in : out), ub.a, 64);  // here
}

void Uninitialised(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 1, broken ? 32 : 64);
  PipeBarrier<PIPE_V>();
  Adds(ub.b, ub.a, 1, 64);  // here
}

void PoisonedPadding(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopyPad(ub.a, Global(in), Bytes(20), {!broken, 0, 3, 0});
  Order<HardEvent::MTE2_V>();
  Adds(ub.b, ub.a, 1, 8);  // here
}

void VectorCount(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 0, broken ? 0 : 1);  // here
}

void VectorOverlap(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  PipeBarrier<PIPE_V>();
  Adds(ub.a[broken ? 8 : 0], ub.a, 1, 56);  // here
}

void CastMode(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  const LocalTensor<float> from = ub.a.ReinterpretCast<float>();
  Duplicate(from, 1.0f, 64);
  PipeBarrier<PIPE_V>();
  const RoundMode mode = broken ? RoundMode::CAST_NONE : RoundMode::CAST_RINT;
  Cast(ub.b.ReinterpretCast<bfloat16_t>(), from, mode, 64);  // here
}

void CompareCount(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 0, 64);
  Duplicate(ub.b, 0, 64);
  PipeBarrier<PIPE_V>();
  const auto left = ub.a.ReinterpretCast<half>(), right = ub.b.ReinterpretCast<half>();
  Compare(ub.c.ReinterpretCast<uint8_t>(), left, right, CMPMODE::EQ, broken ? 64 : 128);  // here
}

void ShiftRange(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 0, 64);
  PipeBarrier<PIPE_V>();
  const uint16_t bits = broken ? 17 : 16;
  ShiftRight(ub.b.ReinterpretCast<uint16_t>(), ub.a.ReinterpretCast<uint16_t>(), bits, 128);  // here
}

// b = a & a.
void Repeat(uint64_t mask, int32_t repeats, const BinaryRepeatParams& strides, Here here) {
  Buffers ub;
  Duplicate(ub.a, 0, 64);
  PipeBarrier<PIPE_V>();
  const LocalTensor<int16_t> from = ub.a.ReinterpretCast<int16_t>();
  And(ub.b.ReinterpretCast<int16_t>(), from, from, mask, repeats, strides, here);
}

void RepeatTime(bool broken, GM_ADDR, GM_ADDR) {
  Repeat(128, broken ? 256 : 255, {1, 1, 1, 0, 0, 0}, Here::Caller());  // here
}

void RepeatMask(bool broken, GM_ADDR, GM_ADDR) {
  Repeat(broken ? 129 : 128, 1, {1, 1, 1, 8, 8, 8}, Here::Caller());  // here
}

void RepeatStride(bool broken, GM_ADDR, GM_ADDR) {
  Repeat(128, 1, {static_cast<uint8_t>(broken ? 0 : 1), 0, 0, 8, 8, 8}, Here::Caller());  // here
}

void AtomicLeftOn(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  SetAtomicAdd<int32_t>();  // here
  DataCopy(Global(out), ub.a, 64);
  if (!broken) SetAtomicNone();
}

void AtomicType(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  if (broken) {
    SetAtomicAdd<float>();
  } else {
    SetAtomicAdd<int32_t>();
  }
  DataCopy(Global(out), ub.a, 64);  // here
  SetAtomicNone();
}

void CoresWriteTheSame(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  if (!broken) SetAtomicAdd<int32_t>();
  DataCopy(Global(out), ub.a, 64);  // here
  SetAtomicNone();
}

void CoreReadsAnothers(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  if (GetBlockIdx() == 0) {
    DataCopy(ub.a, Global(out)[broken ? 64 : 0], 64);  // here
  } else {
    Duplicate(ub.a, 1, 64);
    Order<HardEvent::V_MTE3>();
    DataCopy(Own(out), ub.a, 64);  // here
  }
}

void ScalarStoreKept(bool broken, GM_ADDR, GM_ADDR out) {
  const GlobalTensor<int32_t> own = Own(out);
  own.SetValue(0, 7);  // here
  if (!broken) DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(own);
}

void CacheLineShared(bool broken, GM_ADDR, GM_ADDR out) {
  const GlobalTensor<int32_t> word = Global(out)[GetBlockIdx() * (broken ? 1 : 16)];
  word.SetValue(0, 7);  // here
  DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE, DcciDst::CACHELINE_OUT>(word);
}

}  // namespace

const Bug kMemoryBugs[] = {
    {"copy-rounded", CopyRounded},
    {"copy-rounded/store", StoreRounded},
    {"ub-alignment", UbMisaligned},
    {"ub-alignment/vector", VectorMisaligned},
    {"gm-alignment", GmMisaligned},
    {"copy-params/length", BlockLength},
    {"copy-params/count", BlockCount},
    {"copy-params/padding", TooMuchPadding},
    {"copy-params/64-bit", WidePadding},
    {"ub-capacity", UbCapacity},
    {"ub-bounds", UbBounds},
    {"buffer-count", BufferCount},
    {"pipe-count", SecondPipe},
    {"gm-bounds", GmBounds},
    {"gm-bounds/elsewhere", GmElsewhere},
    {"gm-bounds/size", GmSize},
    {"gm-read-only", GmReadOnly},
    {"uninitialised", Uninitialised},
    {"uninitialised/padding", PoisonedPadding},
    {"vector-count", VectorCount},
    {"vector-overlap", VectorOverlap},
    {"cast-mode", CastMode},
    {"compare-count", CompareCount},
    {"shift-range", ShiftRange},
    {"repeat-time", RepeatTime},
    {"repeat-mask", RepeatMask},
    {"repeat-stride", RepeatStride},
    {"atomic-left-on", AtomicLeftOn},
    {"atomic-type", AtomicType},
    {"cross-core/writes", CoresWriteTheSame},
    {"cross-core/reads", CoreReadsAnothers},
    {"scalar-gm-store", ScalarStoreKept},
    {"cache-line", CacheLineShared},
    {nullptr, nullptr},
};

}  // namespace bugs
