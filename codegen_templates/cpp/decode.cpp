// Forward attention of few queries against many keys: out, lse and row maxima.
//
// Bound by reading keys and values, so each is read once: a thread takes the queries of all heads
// that share them (rows, numbered head * M + query) and a part of the keys; what the parts found is
// put together at the end, in an order that no number of threads changes.
// The hooks' lanes run over keys, not queries: the mods are lowered with q_idx and kv_idx
// exchanged, so in this file a hook's "query" i is a key of the tile and its "key" j is a query.
// Notation as in forward.cpp.
#define FLEX_KEY_LANES 1
#include "args.h"
#include "simd.h"
#include "mods.h"
#include "math_exp.h"
#include "gemm.h"
#include "pack.h"
#include "blocks.h"
#include "strip.h"
#include "rows.h"

constexpr i64 KEYS = BM;  // keys of a tile, at most

struct Shared {
  const DecodeArgs& a;
  i64 heads, groups, rows;  // heads read together, how many such groups, heads * M
  i64 items;                // (batch, group, part)
  i64 width;                // of a row of b_out: Dv in whole vectors
  F *b_out, *b_max, *b_sum; // [items][rows][width], [items][rows] twice
  i64 next = 0, next_row = 0;
  bool out_of_memory = false;
  FaultSink faults;
};

// One thread's scratch.
struct Work {
  F* b_q;         // rows of q, or pairs  [rows][dim_steps(D) * W]
  F* b_s;         // scores, weights      [rows][KEYS]
  F* b_alpha;     // [rows]
  VF* b_partial;  // sums lane by lane    [rows]
  T *b_k, *b_v;   // copied tiles         [KEYS][.]
  T* b_last;      // keys that fill no block of dots  [W][.]
  Uniform* u;     // [heads]
};

static void lay_out(const Shared& shared, Work& w, Arena& arena) {
  i64 rows = shared.rows, k_row = dim_steps(shared.a.D) * DIM_STEP * sizeof(T);
  arena.take(w.b_partial, rows * sizeof(VF));
  arena.take(w.b_q, rows * dim_steps(shared.a.D) * sizeof(VF));
  arena.take(w.b_s, rows * KEYS * sizeof(F));
  arena.take(w.b_alpha, rows * sizeof(F));
  arena.take(w.b_k, KEYS * k_row);
  arena.take(w.b_last, W * k_row);
  arena.take(w.b_v, KEYS * shared.width * sizeof(T));
  arena.take(w.u, shared.heads * sizeof(Uniform));
}

FLEX_INLINE F weight(F difference) { return weight(splat<VF>(difference))[0]; }

// Keys of a tile outside of which no row keeps any: garbage there, as behind the end of a cache,
// is not to reach a sum, not even with weight 0.
struct Kept {
  i64 lo, hi;
  FLEX_MEMBER void add(i64 i, u32 bits) {
    if (!bits) return;
    lo = least(lo, i + __builtin_ctz(bits));
    i64 end = i + 32 - __builtin_clz(bits);
    hi = end > hi ? end : hi;
  }
};

// Scores of one row -> modified, masked; -inf beyond the n keys. The largest.
static F modify(const Site& s, FaultSink& faults, bool masked, i64 j, i64 n, F* b_s, Kept& kept) {
  VF m = splat<VF>(-INF);
  for (i64 i = 0; i < n; i += W) {
    VF score = load_lanes<VF>(b_s + i);
    VM keep = first_lanes(n - i);
    if (HAS_MASK_MOD && masked) kept.add(i, lane_bits(keep &= mask_mod(s, i, j)));
    if (HAS_FAULT) faults.check(s, i, j, n, score, keep);
    if (HAS_SCORE_MOD) score = score_mod(s, i, j, score);
    score = select(keep, score, splat<VF>(-INF));
    store_lanes(b_s + i, score);
    m = max_lanes(score, m);
  }
  return largest(m);
}

// Scores of row r -> weights; its maximum, sum and factor.
static void weigh(Work& w, i64 r, i64 n, F m, F& b_max) {
  F* b_s = w.b_s + r * KEYS;
  F m_new = m > b_max ? m : b_max, m_safe = m_new == -INF ? F(0) : m_new;  // -inf - -inf would be NaN
  F alpha = weight(b_max - m_safe);
  VF sum = w.b_partial[r] * alpha;
  for (i64 i = 0; i < n; i += W) {
    VF p = weight(load_lanes<VF>(b_s + i) - m_safe);
    sum += p;
    store_lanes(b_s + i, p);
  }
  w.b_partial[r] = sum;
  w.b_alpha[r] = alpha;
  b_max = m_new;
}

// All rows against keys kv0 .. kv0 + n (at most KEYS) of batch b, heads from h0 on.
static void attend_tile(Shared& shared, Work& w, i64 item, i64 b, i64 h0, i64 kv0, i64 n, bool masked) {
  const DecodeArgs& a = shared.a;
  i64 h_kv = h0 / (a.Hq / a.Hkv), steps = dim_steps(a.D), rows = shared.rows;
  const T* p_k = (const T*)a.k + b * a.k_b + h_kv * a.k_h + kv0 * a.k_n;
  const T* p_v = (const T*)a.v + b * a.v_b + h_kv * a.v_h + kv0 * a.v_n;
  Rows k = rows_in(p_k, a.k_n, a.k_d, n, a.D, steps * DIM_STEP, w.b_k);
  by_rows(rows, [&](auto together, i64 r) {
    constexpr int R = together.value, TOGETHER = W / R;
    i64 j = 0, ahead = r || k.p != p_k ? 0 : n * k.stride;
    const F* q = w.b_q + r * steps * W;
    F* s = w.b_s + r * KEYS;
    for (; j + TOGETHER <= n; j += TOGETHER) dots<R>(k.p + j * k.stride, k.stride, q, steps, F(a.scale), s + j, KEYS, ahead);
    if (j == n) return;
    __builtin_memset((void*)w.b_last, 0, TOGETHER * steps * DIM_STEP * sizeof(T));
    copy_rows(k.p + j * k.stride, k.stride, 1, n - j, steps * DIM_STEP, w.b_last, steps * DIM_STEP);
    dots<R>(w.b_last, steps * DIM_STEP, q, steps, F(a.scale), s + j, KEYS, 0);
  });

  QValues qv;    // of keys
  KVValues kvv;  // of queries
  Kept kept = {n, 0};
  if (!HAS_MASK_MOD || !masked) kept = {0, n};
  F* b_max = shared.b_max + item * rows;
  for (i64 head = 0; head < shared.heads; head++) {
    const Uniform& u = w.u[head];
    hoist_q(a.mods, u, b, h0 + head, kv0, n, a.N, qv);
    hoist_kv(a.mods, u, b, h0 + head, 0, a.M, kvv);
    Site s = {a.mods, u, qv, kvv, b, h0 + head, kv0, 0, a.N - 1, 0};
    for (i64 j = 0; j < a.M; j++) {
      i64 r = head * a.M + j;
      F m = modify(s, shared.faults, masked, j, n, w.b_s + r * KEYS, kept);
      weigh(w, r, n, m, b_max[r]);
    }
  }
  if (kept.lo >= kept.hi) return;
  Rows v = rows_in(p_v + kept.lo * a.v_n, a.v_n, a.v_d, kept.hi - kept.lo, a.Dv, shared.width, w.b_v);
  F* b_out = shared.b_out + item * rows * shared.width;
  by_rows(rows, [&](auto together, i64 r) {
    i64 ahead = r || v.p == w.b_v ? 0 : n * v.stride;
    sums_of_rows<together.value>(v.p, v.stride, kept.hi - kept.lo, w.b_s + r * KEYS + kept.lo, KEYS, w.b_alpha + r,
                                 b_out + r * shared.width, shared.width, ahead);
  });
}

static void load_queries(const Shared& shared, Work& w, i64 b, i64 h0) {
  const DecodeArgs& a = shared.a;
  i64 width = dim_steps(a.D) * W;
  for (i64 head = 0; head < shared.heads; head++) {
    const T* p_q = (const T*)a.q + b * a.q_b + (h0 + head) * a.q_h;
    F* to = w.b_q + head * a.M * width;
#if FLEX_PAIRS
    copy_rows(p_q, a.q_m, a.q_d, a.M, a.D, (T*)to, 2 * width);
#else
    pack_rows(p_q, a.q_m, a.q_d, a.M, a.D, to, width);
#endif
    hoist_uniform(a.mods, b, h0 + head, w.u[head]);
  }
}

// The tiles of keys of one item: those of its row of blocks, cut into a.parts runs of equal length.
static void attend(Shared& shared, Work& w, i64 item) {
  const DecodeArgs& a = shared.a;
  i64 part = item % a.parts, group = item / a.parts % shared.groups, b = item / a.parts / shared.groups;
  i64 h0 = group * shared.heads, rows = shared.rows, kv0, n, count = 0;
  bool masked;
  load_queries(shared, w, b, h0);
  F *b_max = shared.b_max + item * rows, *b_sum = shared.b_sum + item * rows;
  __builtin_memset(shared.b_out + item * rows * shared.width, 0, rows * shared.width * sizeof(F));
  for (i64 r = 0; r < rows; r++) b_max[r] = -INF, w.b_partial[r] = VF{};
  KeyTiles all(a.blocks, a.mods, w.u[0], a.M, a.N, b, h0, 0);
  while (all.next(kv0, n, masked)) count++;
  KeyTiles tiles(a.blocks, a.mods, w.u[0], a.M, a.N, b, h0, 0);
  i64 first = part * count / a.parts, end = (part + 1) * count / a.parts;
  for (i64 tile = 0; tile < end && tiles.next(kv0, n, masked); tile++)
    for (i64 i = 0; i < n && tile >= first; i += KEYS)
      attend_tile(shared, w, item, b, h0, kv0 + i, least(KEYS, n - i), masked);
  for (i64 r = 0; r < rows; r++) b_sum[r] = total(w.b_partial[r]);
}

static void work(Shared& shared) {
  Work w;
  Arena count = {nullptr};
  lay_out(shared, w, count);
  char* memory = (char*)__builtin_malloc((i64)count.p + 64);
  if (!memory) {
    shared.out_of_memory = true;
    return;
  }
  Arena arena = {(char*)round_up((i64)memory, 64)};
  lay_out(shared, w, arena);
  i64 item;
  while ((item = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) < shared.items) attend(shared, w, item);
  __builtin_free(memory);
}

// One row of the output from what its parts found.
static void unite(const Shared& shared, i64 at) {
  const DecodeArgs& a = shared.a;
  i64 r = at % shared.rows, group = at / shared.rows % shared.groups, b = at / shared.rows / shared.groups;
  i64 h = group * shared.heads + r / a.M, q = r % a.M, item0 = (b * shared.groups + group) * a.parts;
  F m = -INF, sum = 0;
  for (i64 p = 0; p < a.parts; p++) {
    F own = shared.b_max[(item0 + p) * shared.rows + r];
    m = own > m ? own : m;
  }
  F m_safe = m == -INF ? F(0) : m;
  F* total = shared.b_out + (item0 * shared.rows + r) * shared.width;
  for (i64 p = 0; p < a.parts; p++) {
    i64 from = (item0 + p) * shared.rows + r;
    F factor = weight(shared.b_max[from] - m_safe);
    sum += shared.b_sum[from] * factor;
    const F* own = shared.b_out + from * shared.width;
    for (i64 d = 0; d < shared.width; d += W) {
      VF so_far = p ? load_lanes<VF>(total + d) : VF{};
      store_lanes(total + d, so_far + load_lanes<VF>(own + d) * factor);
    }
  }
  F inverse = F(1) / sum;
  T* out = (T*)a.out + b * a.o_b + h * a.o_h + q * a.o_m;
  for (i64 d = 0; d < shared.width; d += W) store_lanes(total + d, sum == 0 ? VF{} : load_lanes<VF>(total + d) * inverse);
  narrow_row(total, a.Dv, out);
  i64 row = (b * a.Hq + h) * a.M + q;
  if (a.lse) ((F*)a.lse)[row] = m + (sizeof(F) == 8 ? F(__builtin_log(sum)) : __builtin_logf(sum));
  if (a.max) ((F*)a.max)[row] = sum != sum && m != INF ? sum : m;
}

static void unite_rows(Shared& shared) {
  i64 count = shared.a.B * shared.groups * shared.rows, row;
  while ((row = __atomic_fetch_add(&shared.next_row, 1, __ATOMIC_RELAXED)) < count) unite(shared, row);
}

#if FLEX_PART != 1
// 0: done, 1: done but a mod faulted (args.mods.fault says where), 2: out of memory.
extern "C" int flexattn_decode(const DecodeArgs* args) {
  const DecodeArgs& a = *args;
  i64 heads = a.packed ? a.Hq / a.Hkv : 1, groups = a.Hq / heads, rows = heads * a.M;
  i64 items = a.B * groups * a.parts, width = round_up(a.Dv, W);
  char* memory = (char*)__builtin_malloc(items * rows * (width + 2) * sizeof(F) + 64);
  if (!memory) return 2;
  F* b_out = (F*)round_up((i64)memory, 64);
  F *b_max = b_out + items * rows * width, *b_sum = b_max + items * rows;
  Shared shared = {a, heads, groups, rows, items, width, b_out, b_max, b_sum, 0, 0, false, {a.mods.fault}};
  i64 threads = least(a.mods.threads, items);
  if (double(a.B * a.Hq) * a.M * a.N * (a.D + a.Dv) < 1e6) threads = 1;  // less than waking a thread costs
  if (threads <= 1) {
    work(shared);
    unite_rows(shared);
  } else {
#pragma omp parallel num_threads(threads)
    {
      work(shared);
#pragma omp barrier
      if (!shared.out_of_memory) unite_rows(shared);
    }
  }
  __builtin_free(memory);
  return shared.out_of_memory ? 2 : shared.faults.found ? 1 : 0;
}
#endif
