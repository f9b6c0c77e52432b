// Classifies the blocks of a mask: 0 empty, 1 partial, 2 full, by asking mask_mod of every pair,
// until a block has shown both a kept and a dropped one.
//
// A thread takes a row of blocks. Notation as in forward.cpp.
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

// The block of queries q0 .. q1 and keys kv0 .. kv1.
static Seen classify(Shared& shared, const Uniform& u, i64 b, i64 h, i64 q0, i64 q1, i64 kv0, i64 kv1) {
  const TilesArgs& a = shared.a;
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
  return seen;
}

static void work(Shared& shared) {
  const TilesArgs& a = shared.a;
  i64 items = a.B * a.H * a.rows, item;
  while ((item = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) < items) {
    i64 b = a.b0 + item / a.rows / a.H, h = a.h0 + item / a.rows % a.H;
    i64 q0 = (a.row0 + item % a.rows) * a.q_block, q1 = least(q0 + a.q_block, a.M);
    Uniform u;
    hoist_uniform(a.mods, b, h, u);
    for (i64 column = 0; column < a.cols; column++) {
      i64 kv0 = column * a.kv_block;
      Seen seen = classify(shared, u, b, h, q0, q1, kv0, least(kv0 + a.kv_block, a.N));
      a.classes[item * a.cols + column] = !seen.kept ? 0 : seen.dropped ? 1 : 2;
    }
  }
}

// 0: done, 1: done but the mask faulted (args.mods.fault says where).
extern "C" int flexattn_tiles(const TilesArgs* args) {
  const TilesArgs& a = *args;
  Shared shared = {a, 0, {a.mods.fault}};
  i64 threads = least(a.mods.threads, a.B * a.H * a.rows);
  if (double(a.B * a.H) * a.rows * a.cols * least(a.q_block, a.M) * least(a.kv_block, a.N) < 1e5) threads = 1;
  if (threads <= 1) {
    work(shared);
  } else {
#pragma omp parallel num_threads(threads)
    work(shared);
  }
  return shared.faults.found ? 1 : 0;
}
