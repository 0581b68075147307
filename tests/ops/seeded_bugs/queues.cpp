// SPDX-License-Identifier: Apache-2.0
#include "bugs.h"

namespace bugs {
namespace {

struct Queues {
  TPipe pipe;
  TQue<TPosition::VECIN, 2> in;
  TQue<TPosition::VECOUT, 1> out;
  Queues() {
    pipe.InitBuffer(in, 2, 256);
    pipe.InitBuffer(out, 2, 256);
  }
  LocalTensor<int32_t> Load(GM_ADDR from) {
    LocalTensor<int32_t> tensor = in.AllocTensor<int32_t>();
    DataCopy(tensor, Global(from), 64);
    return tensor;
  }
};

void Capacity(bool broken, GM_ADDR, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.in.AllocTensor<int32_t>();
  LocalTensor<int32_t> b = q.in.AllocTensor<int32_t>();
  if (!broken) q.in.FreeTensor(a);
  LocalTensor<int32_t> c = q.in.AllocTensor<int32_t>();  // here
  q.in.FreeTensor(b);
  q.in.FreeTensor(c);
}

void Empty(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.Load(in);
  if (!broken) q.in.EnQue(a);
  a = q.in.DeQue<int32_t>();  // here
  q.in.FreeTensor(a);
}

void FreedTwice(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.Load(in);
  q.in.EnQue(a);
  a = q.in.DeQue<int32_t>();
  q.in.FreeTensor(a);
  if (broken) q.in.FreeTensor(a);  // here
}

void FreedInQueue(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.Load(in);
  q.in.EnQue(a);
  if (!broken) a = q.in.DeQue<int32_t>();
  q.in.FreeTensor(a);  // here
}

void Foreign(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.Load(in);
  if (broken) q.out.EnQue(a);  // here
  q.in.EnQue(a);
  q.in.FreeTensor(q.in.DeQue<int32_t>());
}

void Depth(bool broken, GM_ADDR, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.out.AllocTensor<int32_t>();
  LocalTensor<int32_t> b = q.out.AllocTensor<int32_t>();
  q.out.EnQue(a);
  if (!broken) q.out.FreeTensor(q.out.DeQue<int32_t>());
  q.out.EnQue(b);  // here
  q.out.FreeTensor(q.out.DeQue<int32_t>());
}

void Leak(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.in.AllocTensor<int32_t>();  // here
  DataCopy(a, Global(in), 64);
  q.in.EnQue(a);
  a = q.in.DeQue<int32_t>();
  if (!broken) q.in.FreeTensor(a);
}

void Stale(bool broken, GM_ADDR in, GM_ADDR) {
  Queues q;
  LocalTensor<int32_t> a = q.Load(in);
  q.in.EnQue(a);
  a = q.in.DeQue<int32_t>();
  LocalTensor<int32_t> b = q.out.AllocTensor<int32_t>();
  if (broken) q.in.FreeTensor(a);
  Adds(b, a, 1, 64);  // here
  if (!broken) q.in.FreeTensor(a);
  q.out.FreeTensor(b);
}

void FlagUnpaired(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  SetFlag<HardEvent::V_S>(0);  // here
  if (!broken) WaitFlag<HardEvent::V_S>(0);
}

void FlagDoubled(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  SetFlag<HardEvent::V_S>(0);
  if (!broken) WaitFlag<HardEvent::V_S>(0);
  SetFlag<HardEvent::V_S>(0);  // here
  WaitFlag<HardEvent::V_S>(0);
}

void FlagUnset(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  if (!broken) SetFlag<HardEvent::MTE2_V>(1);
  WaitFlag<HardEvent::MTE2_V>(1);  // here
}

void FlagId(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  SetFlag<HardEvent::MTE2_V>(broken ? 6 : 5);  // here
  WaitFlag<HardEvent::MTE2_V>(5);
}

void EventIds(bool broken, GM_ADDR, GM_ADDR) {
  TPipe pipe;
  for (int i = 0; i < (broken ? 7 : 6); ++i) {
    pipe.AllocEventID<HardEvent::S_V>();  // here
  }
}

}  // namespace

const Bug kQueueBugs[] = {
    {"queue-capacity", Capacity},
    {"queue-empty", Empty},
    {"queue-order/freed twice", FreedTwice},
    {"queue-order/freed in queue", FreedInQueue},
    {"queue-order/foreign", Foreign},
    {"queue-depth", Depth},
    {"queue-leak", Leak},
    {"stale-tensor", Stale},
    {"flag-unpaired", FlagUnpaired},
    {"flag-doubled", FlagDoubled},
    {"flag-unset", FlagUnset},
    {"flag-id", FlagId},
    {"event-ids", EventIds},
    {nullptr, nullptr},
};

}  // namespace bugs
