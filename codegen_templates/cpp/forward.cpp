// Forward attention: out, lse and row maxima, in one pass over the keys (online softmax).
//
// A thread takes a tile of queries of one head, packs Q^T once, and walks the tiles of keys that
// the block table names. Scores are held transposed, S^T [keys][queries], a strip of two vectors
// of queries at a time: maxima, sums and rescaling never cross lanes, and K and V are read where
// they lie. `out` is gathered as O^T [Dv][queries] and transposed at the end.
// Notation: p_ pointer, b_ block of values, m_ mask; shapes at line ends.
#include "args.h"
#include "simd.h"
#include "mods.h"
#include "math_exp.h"
#include "gemm.h"
#include "pack.h"
#include "blocks.h"
#include "strip.h"

struct Shared {
  const ForwardArgs& a;
  QueryTiles tiles;
  i64 items, next = 0;
  bool out_of_memory = false;
  FaultSink faults;
};

// One thread's scratch for one tile of queries.
struct Work {
  F* b_q;       // Q^T, or pairs of it  [dim_depth(D)][BM]
  F* b_out;     // O^T                      [dim_rows(Dv)][BM]
  void* b_k;    // converted tile of K  [BN][D]
  void* b_v;    // converted tile of V  [BN][Dv]
  bool touched[BM / STRIP];  // whether b_out holds anything for the strip
  alignas(64) F b_max[BM], b_sum[BM], b_alpha[BM];  // maxima; sums of weights
};

// S -> modified, masked scores; the running maxima of one vector of queries.
static VF modify(const Site& s, FaultSink& faults, const StripMask& mask, i64 i, i64 c, i64 n_q, F* b_s, VF m) {
  for (i64 j = mask.lo; j < mask.hi; j++) {
    F* p = b_s + j * STRIP;
    VF score = load_lanes<VF>(p);
    if (HAS_FAULT) faults.check(s, i, j, n_q, score, mask.needed ? mask.keep[j][c] : splat<VM>(-1));
    if (HAS_SCORE_MOD) score = score_mod(s, i, j, score);
    if (mask.needed) score = select(mask.keep[j][c], score, splat<VF>(-INF));
    if (HAS_SCORE_MOD || mask.needed) store_lanes(p, score);
    m = max_lanes(score, m);
  }
  return m;
}

// S -> P = e^(S - m) in place, or as pairs of bf16 rows in place of their first row; the sum.
static VF weigh(i64 lo, i64 hi, F* b_s, VF m) {
  VF sum = {};
#if FLEX_PAIRS
  for (i64 j = lo; j < hi; j += 2) {
    VF p0 = weight(load_lanes<VF>(b_s + j * STRIP) - m), p1 = {};
    if (j + 1 < hi) p1 = weight(load_lanes<VF>(b_s + (j + 1) * STRIP) - m);
    sum += p0 + p1;
    store_lanes(b_s + j * STRIP, pair_lanes(p0, p1));
  }
#else
  for (i64 j = lo; j < hi; j++) {
    VF p = weight(load_lanes<VF>(b_s + j * STRIP) - m);
    sum += p;
    store_lanes(b_s + j * STRIP, p);
  }
#endif
  return sum;
}

// Queries i .. i + vectors * W of the tile against its keys k, v.
static void attend_strip(Shared& shared, Work& w, const Site& s, const StripMask& mask, i64 i, i64 vectors, i64 n_q,
                         Operand k, Operand v) {
  const ForwardArgs& a = shared.a;
  alignas(64) F b_s[BN * STRIP];  // [BN][STRIP]
  i64 lo = mask.lo, n = mask.hi - lo;
  for (i64 c = 0; c < vectors; c++) ask_for_tables(s, i + c * W, lo, n);
  gemm({k.p + lo * k.m, k.m, k.k, w.b_q + i, BM, b_s + lo * STRIP, STRIP, n, dim_depth(a.D), vectors * W, false, nullptr, F(a.scale)});
  for (i64 c = 0; c < vectors; c++) {
    i64 lane = i + c * W;
    VF m_old = load_lanes<VF>(w.b_max + lane);
    VF m = modify(s, shared.faults, mask, lane, c, n_q, b_s + c * W, m_old);
    VF m_safe = select(to_mask(m == -INF), VF{}, m);  // -inf - -inf would be NaN
    VF alpha = weight(m_old - m_safe);
    VF sum = weigh(lo, mask.hi, b_s + c * W, m_safe);
    store_lanes(w.b_sum + lane, load_lanes<VF>(w.b_sum + lane) * alpha + sum);
    store_lanes(w.b_alpha + lane, alpha);
    store_lanes(w.b_max + lane, m);
  }
  bool& touched = w.touched[i / STRIP];
  gemm({v.p + lo / Mac::DEPTH * v.k, v.m, v.k, b_s + lo * STRIP, STRIP * Mac::DEPTH, w.b_out + i, BM, dim_rows(a.Dv), depth(n),
        vectors * W, touched, w.b_alpha + i, F(1)});
  touched = true;
}

static void write_tile(const ForwardArgs& a, Work& w, i64 b, i64 h, i64 q0, i64 n_q) {
  alignas(64) F factor[BM];
  for (i64 i = 0; i < n_q; i += STRIP)
    if (!w.touched[i / STRIP])
      for (i64 d = 0; d < a.Dv; d++) __builtin_memset(w.b_out + d * BM + i, 0, STRIP * sizeof(F));
  for (i64 i = 0; i < n_q; i += W) {
    VF sum = load_lanes<VF>(w.b_sum + i);
    store_lanes(factor + i, select(to_mask(sum == 0), VF{}, F(1) / sum));
  }
  unpack_transposed(w.b_out, factor, n_q, a.Dv, (T*)a.out + b * a.o_b + h * a.o_h + q0 * a.o_m, a.o_m);
  i64 at = (b * a.Hq + h) * a.M + q0;
  for (i64 i = 0; i < n_q; i++) {
    F m = w.b_max[i], sum = w.b_sum[i];
    if (a.lse) ((F*)a.lse)[at + i] = m + (sizeof(F) == 8 ? F(__builtin_log(sum)) : __builtin_logf(sum));
    if (a.max) ((F*)a.max)[at + i] = sum != sum && m != INF ? sum : m;
  }
}

static void attend_tile(Shared& shared, Work& w, i64 b, i64 h, i64 q0, i64 row, i64 n_q) {
  const ForwardArgs& a = shared.a;
  i64 h_kv = h / (a.Hq / a.Hkv);
  const T* p_k = (const T*)a.k + b * a.k_b + h_kv * a.k_h;
  const T* p_v = (const T*)a.v + b * a.v_b + h_kv * a.v_h;
  pack_transposed((const T*)a.q + b * a.q_b + h * a.q_h + q0 * a.q_m, a.q_m, a.q_d, n_q, a.D, w.b_q);
  for (i64 i = 0; i < BM; i++) w.b_max[i] = -INF, w.b_sum[i] = 0;
  for (bool& touched : w.touched) touched = false;

  Uniform u;
  QValues qv;
  KVValues kvv;
  hoist_uniform(a.mods, b, h, u);
  hoist_q(a.mods, u, b, h, q0, n_q, a.M, qv);
  StripMask mask;
  KeyTiles keys(a.blocks, a.mods, u, a.M, a.N, b, h, row);
  i64 kv0, n;
  bool masked;
  while (keys.next(kv0, n, masked)) {
    hoist_kv(a.mods, u, b, h, kv0, n, kvv);
    Site s = {a.mods, u, qv, kvv, b, h, q0, kv0, a.M - 1, 0};
    Operand k = {}, v = {};
    for (i64 i = 0; i < n_q; i += STRIP) {
      i64 vectors = least(2, (n_q - i + W - 1) / W);
      if (masked) mask.fill(s, i, vectors, n);
      else mask.keep_all(n);
      if (mask.lo >= mask.hi) continue;
      if (!k.p) {
        k = rows_operand(p_k + kv0 * a.k_n, a.k_n, a.k_d, n, a.D, w.b_k);
        v = columns_operand(p_v + kv0 * a.v_n, a.v_n, a.v_d, n, a.Dv, w.b_v);
      }
      attend_strip(shared, w, s, mask, i, vectors, n_q, k, v);
    }
  }
  write_tile(a, w, b, h, q0, n_q);
}

static void work(Shared& shared) {
  const ForwardArgs& a = shared.a;
#if FLEX_TILES
  Tiles tiles;
#endif
  Work w;
  i64 q_bytes = dim_depth(a.D) * BM * sizeof(F), out_bytes = dim_rows(a.Dv) * BM * sizeof(F);
  i64 k_bytes = round_up(operand_bytes(a.D), 64), v_bytes = operand_bytes(a.Dv);
  char* memory = (char*)__builtin_malloc(q_bytes + out_bytes + k_bytes + v_bytes + 64);
  if (!memory) {
    shared.out_of_memory = true;
    return;
  }
  char* p = (char*)round_up((i64)memory, 64);
  w.b_q = (F*)p;
  w.b_out = (F*)(p + q_bytes);
  w.b_k = p + q_bytes + out_bytes;
  w.b_v = p + q_bytes + out_bytes + k_bytes;
  i64 count = shared.tiles.count, item, row, q0;
  while ((item = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) < shared.items) {
    i64 head = item / count, tile = count - 1 - item % count;  // last first: causal work is longest there
    i64 n_q = shared.tiles.get(tile, q0, row);
    if (n_q > 0) attend_tile(shared, w, head / a.Hq, head % a.Hq, q0, row, n_q);
  }
  __builtin_free(memory);
}

#if FLEX_PART != 1
// 0: done, 1: done but a mod faulted (args.mods.fault says where), 2: out of memory.
extern "C" int flexattn_forward(const ForwardArgs* args) {
  const ForwardArgs& a = *args;
  QueryTiles tiles(a.blocks, a.M);
  Shared shared = {a, tiles, a.B * a.Hq * tiles.count, 0, false, {a.mods.fault}};
  i64 threads = least(a.mods.threads, shared.items);
  if (double(a.B * a.Hq) * a.M * a.N * (a.D + a.Dv) < 1e6) threads = 1;  // less than waking a thread costs
  if (threads <= 1) {
    work(shared);
  } else {
#pragma omp parallel num_threads(threads)
    work(shared);
  }
  return shared.out_of_memory ? 2 : shared.faults.found ? 1 : 0;
}
#endif
