// Where the gradients of keys and values are summed, in F, and how they reach the user's tensors.
//
// One chunk alone sums straight into the output when that has F's type and whole vectors of head
// dims; otherwise into rows padded to whole vectors: one buffer a thread, narrowed to the output
// after each item, or with several chunks one buffer a chunk, added up in order of chunks at the
// end. The sums therefore never depend on which thread did what.
#ifndef FLEX_KEY_GRADS_H
#define FLEX_KEY_GRADS_H
#include "args.h"
#include "pack.h"

// A sum over all keys: row kv at p + kv * stride, `lanes` wide. p null: not wanted.
struct KeySum {
  F* p;
  i64 stride, lanes;
  void clear(i64 N) {
    if (!p) return;
    for (i64 kv = 0; kv < N; kv++) __builtin_memset(p + kv * stride, 0, lanes * sizeof(F));
  }
};

// The output tensor of one of the two, dk or dv.
struct KeyGrad {
  T* out;
  i64 b, h, n, columns;
  i64 width() const { return out ? round_up(columns, W) : 0; }
  bool direct() const { return sizeof(T) == sizeof(F) && columns % W == 0; }
  T* row(i64 batch, i64 head, i64 kv) const { return out + batch * b + head * h + kv * n; }
};

class KeyGrads {
  const BackwardArgs& a;
  KeyGrad dk, dv;
  F* memory = nullptr;

  // Elements of one slot of memory: dk's rows, then dv's; outputs summed in place need none.
  i64 need(const KeyGrad& g) const { return a.chunks == 1 && g.direct() ? 0 : a.N * g.width(); }
  i64 slot() const { return need(dk) + need(dv); }

  KeySum sum(const KeyGrad& g, i64 item, i64 at) const {
    i64 head = item / a.chunks;
    if (!g.out) return {nullptr, 0, 0};
    if (need(g) == 0) return {(F*)g.row(head / a.Hkv, head % a.Hkv, 0), g.n, g.width()};
    return {memory + at, g.width(), g.width()};
  }
  void write(const KeyGrad& g, i64 head, i64 kv0, i64 kv1, i64 at, i64 slots) const {
    if (!g.out || need(g) == 0) return;
    F* first = memory + at;
    for (i64 kv = kv0; kv < kv1; kv++) {
      F* p = first + kv * g.width();
      for (i64 c = 1; c < slots; c++)
        for (i64 d = 0; d < g.width(); d += W)
          store_lanes(p + d, load_lanes<VF>(p + d) + load_lanes<VF>(p + c * slot() + d));
      narrow_row(p, g.columns, g.row(head / a.Hkv, head % a.Hkv, kv));
    }
  }

 public:
  explicit KeyGrads(const BackwardArgs& a)
      : a(a), dk{(T*)a.dk, a.dk_b, a.dk_h, a.dk_n, a.D}, dv{(T*)a.dv, a.dv_b, a.dv_h, a.dv_n, a.Dv} {}
  ~KeyGrads() { __builtin_free(memory); }
  bool allocate(i64 threads) {
    i64 slots = a.chunks == 1 ? threads : a.Bkv * a.Hkv * a.chunks;
    if (slots * slot() == 0) return true;
    memory = (F*)__builtin_malloc(slots * slot() * sizeof(F));
    return memory != nullptr;
  }
  // The sums of an item, cleared.
  void begin(i64 item, i64 thread, KeySum& dk_sum, KeySum& dv_sum) {
    i64 at = (a.chunks == 1 ? thread : item) * slot();
    dk_sum = sum(dk, item, at);
    dv_sum = sum(dv, item, at + need(dk));
    dk_sum.clear(a.N);
    dv_sum.clear(a.N);
  }
  void end(i64 item, i64 thread) {
    if (a.chunks > 1) return;
    write(dk, item, 0, a.N, thread * slot(), 1);
    write(dv, item, 0, a.N, thread * slot() + need(dk), 1);
  }
  // After all items: rows BN * part and on, of all heads together.
  i64 parts() const { return a.chunks == 1 ? 0 : a.Bkv * a.Hkv * ((a.N + BN - 1) / BN); }
  void reduce(i64 part) {
    i64 per_head = (a.N + BN - 1) / BN, head = part / per_head, kv0 = part % per_head * BN, kv1 = least(kv0 + BN, a.N);
    write(dk, head, kv0, kv1, head * a.chunks * slot(), a.chunks);
    write(dv, head, kv0, kv1, head * a.chunks * slot() + need(dk), a.chunks);
  }
};
#endif
