// Classifies the blocks of a mask: 0 empty, 1 partial, 2 full, by asking mask_mod of every pair,
// until a block has shown both a kept and a dropped one.
//
// A thread takes a row of blocks, or a listed one. Notation as in forward.cpp.
#include "args.h"
#include "simd.h"
#include "mods.h"
#include "pack.h"
#include "strip.h"

struct Shared {
  const TilesArgs& a;
  i64 next = 0;
  FaultSink faults;
};

// Pairs seen so far in one block.
struct Seen {
  bool kept = false, dropped = false;
  bool done() const { return kept && dropped && !HAS_FAULT; }  // a fault may still be ahead
};

// Queries q0 .. q0 + n_q (at most BM) against keys kv0 .. kv0 + n (at most BN).
static void look(Shared& shared, const Site& s, i64 n_q, i64 n, Seen& seen) {
  for (i64 j = 0; j < n && !seen.done(); j++)
    for (i64 i = 0; i < n_q; i += W) {
      VM real = first_lanes(n_q - i), kept = mask_mod(s, i, j) & real;
      seen.kept |= any(kept);
      seen.dropped |= any(real & ~kept);
      if (HAS_FAULT) shared.faults.check(s, i, j, n_q, VF{}, kept);
    }
}

// The class of the block at a row and a column, of batch b and head h.
static unsigned char classify(Shared& shared, const Uniform& u, i64 b, i64 h, i64 row, i64 column) {
  const TilesArgs& a = shared.a;
  i64 q0 = row * a.q_block, q1 = least(q0 + a.q_block, a.M);
  i64 kv0 = column * a.kv_block, kv1 = least(kv0 + a.kv_block, a.N);
  QValues qv;
  KVValues kvv;
  Seen seen;
  for (i64 q = q0; q < q1 && !seen.done(); q += BM) {
    i64 n_q = least(BM, q1 - q);
    hoist_q(a.mods, u, b, h, q, n_q, a.M, qv);
    for (i64 kv = kv0; kv < kv1 && !seen.done(); kv += BN) {
      i64 n = least(BN, kv1 - kv);
      hoist_kv(a.mods, u, b, h, kv, n, kvv);
      look(shared, {a.mods, u, qv, kvv, b, h, q, kv, a.M - 1, 0}, n_q, n, seen);
    }
  }
  return !seen.kept ? 0 : seen.dropped ? 1 : 2;
}

// Takes rows of blocks, or single blocks where some are listed.
static void work(Shared& shared) {
  const TilesArgs& a = shared.a;
  i64 wide = a.listed ? 1 : a.cols, items = a.listed ? a.count : a.B * a.H * a.rows, item;
  while ((item = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) < items) {
    i64 first = a.listed ? a.listed[item] % a.cols : 0;
    i64 at = a.listed ? a.listed[item] / a.cols : item;
    i64 b = a.b0 + at / a.rows / a.H, h = a.h0 + at / a.rows % a.H, row = a.row0 + at % a.rows;
    Uniform u;
    hoist_uniform(a.mods, b, h, u);
    for (i64 i = 0; i < wide; i++) a.classes[item * wide + i] = classify(shared, u, b, h, row, first + i);
  }
}

#if FLEX_PART != 1
// 0: done, 1: done but the mask faulted (args.mods.fault says where).
extern "C" int flexattn_tiles(const TilesArgs* args) {
  const TilesArgs& a = *args;
  Shared shared = {a, 0, {a.mods.fault}};
  i64 items = a.listed ? a.count : a.B * a.H * a.rows, threads = least(a.mods.threads, items);
  double blocks = a.listed ? a.count : double(items) * a.cols;
  if (blocks * least(a.q_block, a.M) * least(a.kv_block, a.N) < 1e5) threads = 1;
  if (threads <= 1) {
    work(shared);
  } else {
#pragma omp parallel num_threads(threads)
    work(shared);
  }
  return shared.faults.found ? 1 : 0;
}
#endif
