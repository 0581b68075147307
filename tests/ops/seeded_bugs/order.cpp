// SPDX-License-Identifier: Apache-2.0
// Missing synchronisation. Where it matters to the lazy schedule alone, `out` then differs or something is read
// before it is written.
#include "bugs.h"

namespace bugs {
namespace {

void LoadThenVector(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  DataCopy(ub.a, Global(in), 64);
  if (!broken) Order<HardEvent::MTE2_V>();
  Adds(ub.b, ub.a, 1, 64);  // here
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.b, 64);
}

void VectorThenStore(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  if (!broken) Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, 64);  // here
}

void StoreThenVector(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, 64);
  if (!broken) Order<HardEvent::MTE3_V>();
  PipeBarrier<PIPE_V>();
  Duplicate(ub.a, 2, 64);  // here
}

void VectorThenLoad(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  DataCopy(ub.a, Global(in), 64);
  Order<HardEvent::MTE2_V>();
  Adds(ub.b, ub.a, 1, 64);
  if (!broken) Order<HardEvent::V_MTE2>();
  PipeBarrier<PIPE_MTE2>();
  DataCopy(ub.a, Global(in)[64], 64);  // here
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.b, 64);
}

void LoadThenScalar(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  DataCopy(ub.a, Global(in), 64);
  if (!broken) Order<HardEvent::MTE2_S>();
  ub.b.SetValue(0, ub.a.GetValue(3));  // here
  Order<HardEvent::S_MTE3>();
  DataCopyPad(Own(out), ub.b, Bytes(4));
}

void ScalarThenLoad(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  ub.a.SetValue(0, 7);
  if (!broken) Order<HardEvent::S_MTE2>();
  DataCopy(ub.a, Global(in), 64);  // here
}

void ScalarThenVector(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  for (int i = 0; i < 8; ++i) ub.a.SetValue(i, i);
  if (!broken) Order<HardEvent::S_V>();
  Adds(ub.b, ub.a, 1, 8);  // here
}

void VectorThenScalar(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 5, 64);
  if (!broken) Order<HardEvent::V_S>();
  ub.b.SetValue(0, ub.a.GetValue(0));  // here
  Order<HardEvent::S_MTE3>();
  DataCopyPad(Own(out), ub.b, Bytes(4));
}

void ScalarOverVector(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 5, 64);
  if (!broken) Order<HardEvent::V_S>();
  ub.a.SetValue(0, 6);  // here
  Order<HardEvent::S_MTE3>();
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, 64);
}

void ScalarThenStore(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  ub.a.SetValue(0, 7);
  if (!broken) Order<HardEvent::S_MTE3>();
  DataCopyPad(Own(out), ub.a, Bytes(4));  // here
}

void StoreThenScalar(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  ub.a.SetValue(0, 7);
  Order<HardEvent::S_MTE3>();
  DataCopyPad(Own(out), ub.a, Bytes(4));
  if (!broken) Order<HardEvent::MTE3_S>();
  ub.a.SetValue(0, 8);  // here
}

void VectorThenVector(bool broken, GM_ADDR, GM_ADDR) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  if (!broken) PipeBarrier<PIPE_V>();
  Adds(ub.b, ub.a, 1, 64);  // here
}

void LoadOverLoad(bool broken, GM_ADDR in, GM_ADDR) {
  Buffers ub;
  DataCopy(ub.a, Global(in), 64);
  if (!broken) PipeBarrier<PIPE_MTE2>();
  DataCopy(ub.a[32], Global(in), 32);  // here
}

void StoreOverStore(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, 64);
  if (!broken) PipeBarrier<PIPE_MTE3>();
  DataCopy(Own(out), ub.a[32], 32);  // here
}

void LoadThenStore(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  DataCopy(ub.a, Global(in), 64);
  if (!broken) Order<HardEvent::MTE2_MTE3>();
  DataCopy(Own(out), ub.a, 64);  // here
}

void StoreThenLoad(bool broken, GM_ADDR, GM_ADDR out) {
  Buffers ub;
  Duplicate(ub.a, 1, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.a, 64);
  if (!broken) Order<HardEvent::MTE3_MTE2>();
  DataCopy(ub.b, Own(out), 64);  // here
  Order<HardEvent::MTE2_V>();
  Adds(ub.c, ub.b, 1, 64);
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out)[kWords / 2], ub.c, 64);
}

void WrongFlag(bool broken, GM_ADDR in, GM_ADDR out) {
  Buffers ub;
  if (broken) SetFlag<HardEvent::MTE2_V>(0);  // before what it should announce
  DataCopy(ub.a, Global(in), 64);
  if (!broken) SetFlag<HardEvent::MTE2_V>(0);
  WaitFlag<HardEvent::MTE2_V>(0);
  Adds(ub.b, ub.a, 1, 64);  // here
  Order<HardEvent::V_MTE3>();
  DataCopy(Own(out), ub.b, 64);
}

}  // namespace

const Bug kOrderBugs[] = {
    {"race/MTE2_V", LoadThenVector},   {"race/V_MTE3", VectorThenStore}, {"race/MTE3_V", StoreThenVector},
    {"race/V_MTE2", VectorThenLoad},   {"race/MTE2_S", LoadThenScalar},  {"race/S_MTE2", ScalarThenLoad},
    {"race/S_V", ScalarThenVector},    {"race/V_S", VectorThenScalar},   {"race/V_S write", ScalarOverVector},
    {"race/S_MTE3", ScalarThenStore},  {"race/MTE3_S", StoreThenScalar}, {"race/V", VectorThenVector},
    {"race/MTE2", LoadOverLoad},       {"race/MTE3", StoreOverStore},    {"race/MTE2_MTE3", LoadThenStore},
    {"race/MTE3_MTE2", StoreThenLoad}, {"race/early flag", WrongFlag},   {nullptr, nullptr},
};

}  // namespace bugs
