// The hook interface between a kernel and the traced mods; the marked region is replaced.
//
// Lanes run over queries: lane l of a hook called with (i, j) is the pair
// q_idx = min(q0 + i + l, q_last), kv_idx = kv0 + j. `i` is a multiple of W.
#ifndef FLEX_MODS_H
#define FLEX_MODS_H
#include "args.h"
#include "simd.h"
#include "turned.h"

struct Uniform;
struct QValues;
struct KVValues;
struct GradTile;

// One tile of one head, as the hooks see it.
struct Site {
  const Mods& a;
  const Uniform& u;
  const QValues& qv;
  const KVValues& kvv;
  i64 b, h;    // batch and query head
  i64 q0, kv0; // first query and key of the tile
  i64 q_last;  // last query there is: M - 1
  i64 group;   // backward: part of the captured gradients' buffers to add to; else 0

  // q_idx of the lanes from i (VI or VL), never beyond the last query, and kv_idx of row j.
  template <class V> V q_idx(i64 i) const {
    V q = lane_index<V>() + splat<V>(q0 + i), last = splat<V>(q_last);
    return select(q < last, q, last);
  }
  template <class I> I kv_idx(i64 j) const { return I(kv0 + j); }
};

// A region may begin with #include "math_….h" lines: the head of each such file names the
// functions it provides. Every name below must exist in a region.
// >>> mods
constexpr bool HAS_SCORE_MOD = false;
constexpr bool HAS_MASK_MOD = false;
constexpr bool HAS_FAULT = false;          // is fault() to be asked (forward, tiles)
constexpr bool HAS_CAPTURE_GRADS = false;  // are the grad_* hooks to be called (backward)
constexpr int NUM_CAPTURE_GRADS = 0;
constexpr int NUM_RANGES = 0;              // ranges of keys that tell the blocks to visit; 0: the tables do

// Hoisted values: scalars, arrays of BM, arrays of BN; of F, int or i64, a bool as int.
struct Uniform {};
struct QValues {};
struct KVValues {};

static inline void hoist_uniform(const Mods& a, i64 b, i64 h, Uniform& u) {}
// Entries i in [0, BM) for q_idx = min(q0 + i, limit - 1); the first n are real.
static void hoist_q(const Mods& a, const Uniform& u, i64 b, i64 h, i64 q0, i64 n, i64 limit, QValues& qv) {}
// Entries j in [0, n) for kv_idx = kv0 + j.
static void hoist_kv(const Mods& a, const Uniform& u, i64 b, i64 h, i64 kv0, i64 n, KVValues& kvv) {}

// Ends of the ranges of keys of one query, in order and half-open; they may lie beyond the lengths.
static inline void kv_ranges(const Mods& a, const Uniform& u, i64 b, i64 h, i64 q, i64* low, i64* high) {}

// Whether the pair is kept.
static inline VM mask_mod(const Site& s, i64 i, i64 j) { return splat<VM>(-1); }
// `score` is scale * q.k, natural domain.
static inline VF score_mod(const Site& s, i64 i, i64 j, VF score) { return score; }
// Asks for what score_mod will read of tables for the rows of keys j .. j + n.
FLEX_INLINE void ask_for_tables(const Site& s, i64 i, i64 j, i64 n) {}
// Both mods' faults; the kernel itself leaves out pairs that the mask drops. `score` is the raw
// scaled score (in tiles.cpp, which has none, 0).
static inline VM fault(const Site& s, i64 i, i64 j, VF score) { return splat<VM>(0); }

// Gradient at the raw scaled score, from that score and from the gradient at the modified one.
// Also adds the captured gradients of the pair to `g`. A lane with grad == 0 (masked, beyond the
// last query, or probability 0) must add exactly 0 to captured gradients whatever the derivative
// is, even inf or NaN: use select(to_mask(grad != 0), value, 0). The result needs no such care.
static inline VF score_grad(const Site& s, i64 i, i64 j, VF score, VF grad, GradTile& g) { return grad; }
// grad_begin is called once a tile of queries, before any other; grad_flush_kv after each tile of
// n keys (s.kvv and s.kv0 are that tile's) and must leave what it flushed at zero; grad_flush_q
// after the last tile of keys, for n real queries (kvv is then of no meaning).
struct GradTile {};
static inline void grad_begin(GradTile& g, const Site& s) {}
static inline void grad_flush_kv(GradTile& g, const Site& s, i64 n) {}
static inline void grad_flush_q(GradTile& g, const Site& s, i64 n) {}
// <<< mods
#endif
