// Backward attention: gradients of q, k, v and of captured tensors, in one pass.
//
// An item is one head of keys (and a share of its queries); a thread walks the item's tiles of
// queries, and for each the tiles of keys that the block table names. Scores are computed again,
// transposed as in forward.cpp: S^T = K Q^T, P^T = e^(S^T - lse), dP^T = V dO^T,
// dS^T = P^T (dP^T - delta) with delta = rowsum(dO * O) - dlse, through the derivative of
// score_mod; then dQ^T += K^T dS^T, dK += dS Q, dV += P dO.
// Notation: p_ pointer, b_ block of values, m_ mask; shapes at line ends.
#include "args.h"
#include "simd.h"
#include "mods.h"
#include "math_exp.h"
#include "gemm.h"
#include "pack.h"
#include "blocks.h"
#include "strip.h"
#include "key_grads.h"

extern "C" int omp_get_thread_num(void);

struct Shared {
  const BackwardArgs& a;
  QueryTiles tiles;
  KeyGrads sums;
  i64 next = 0, next_part = 0;
  bool out_of_memory = false;
};

// One thread's scratch for one tile of queries.
struct Work {
  const BackwardArgs& a;
  KeySum dk, dv;         // of the current item
  F *b_q, *b_do, *b_out;  // Q^T, dO^T, O^T, or pairs [depth(D or Dv)][BM]
  F *b_q_rows, *b_do_rows;  // Q, dO as panels       [depth(BM)][D or Dv, padded]
  F* b_dq;               // dQ^T                     [D][BM]
  F *b_s, *b_dp;         // S^T then P^T; dP^T then scale * dS^T   [BN][BM]
  u16 *b_p16, *b_ds16;   // as pairs along queries: P^T, dS^T      [BN][BM]
  F* b_ds;               // dS^T as A of dK and B of dQ: b_dp, or pairs along keys  [depth(BN)][BM]
  void *b_k, *b_k2, *b_v;  // converted tiles
  bool touched[BM / STRIP];  // whether b_dq holds anything for the strip
  alignas(64) F b_lse[BM], b_delta[BM];  // lse, but +inf where no weight can be
};

static void lay_out(Work& w, Arena& arena) {
  const BackwardArgs& a = w.a;
  i64 row = BM * sizeof(F);
  arena.take(w.b_q, dim_depth(a.D) * row);
  arena.take(w.b_do, dim_depth(a.Dv) * row);
  arena.take(w.b_out, dim_depth(a.Dv) * row);
  arena.take(w.b_q_rows, round_up(a.D, W) * row);
  arena.take(w.b_do_rows, round_up(a.Dv, W) * row);
  arena.take(w.b_dq, dim_rows(a.D) * row);
  arena.take(w.b_s, BN * row);
  arena.take(w.b_dp, BN * row);
  arena.take(w.b_p16, FLEX_PAIRS ? BN * BM * 2 : 0);
  arena.take(w.b_ds16, FLEX_PAIRS ? BN * BM * 2 : 0);
  arena.take(w.b_ds, FLEX_PAIRS ? BN / 2 * row : 0);
  if (!FLEX_PAIRS) w.b_ds = w.b_dp;
  arena.take(w.b_k, operand_bytes(a.D));
  arena.take(w.b_k2, FLEX_PAIRS ? operand_bytes(a.D) : 0);
  arena.take(w.b_v, operand_bytes(a.Dv));
}

// One vector of pairs: S, dP -> P, scale * dS.
FLEX_INLINE void pair_row(Work& w, const Site& s, GradTile& g, const StripMask& mask, i64 i, i64 c, i64 j, VF& p, VF& ds) {
  VF raw = load_lanes<VF>(w.b_s + j * BM + i), score = raw;
  if (HAS_SCORE_MOD) score = rounded(score_mod(s, i, j, raw));  // as the forward stored it
  if (mask.needed) score = select(mask.keep[j][c], score, splat<VF>(-INF));
  VF lse = load_lanes<VF>(w.b_lse + i);
  VF found = weight(score - lse);
  p = select(to_mask(lse != INF), found, VF{});
  VM none = to_mask(p == 0);  // no weight: nothing flows, whatever the derivatives are
  ds = select(none, VF{}, p * (load_lanes<VF>(w.b_dp + j * BM + i) - load_lanes<VF>(w.b_delta + i)));
  if (HAS_SCORE_MOD || HAS_CAPTURE_GRADS) ds = select(none, VF{}, score_grad(s, i, j, raw, ds, g));
  ds = ds * F(w.a.scale);
}

static void pair_rows(Work& w, const Site& s, GradTile& g, const StripMask& mask, i64 i, i64 c) {
#if FLEX_PAIRS
  for (i64 j = mask.lo; j < mask.hi; j += 2) {
    VF p[2] = {}, ds[2] = {};
    for (i64 r = 0; r < 2 && j + r < mask.hi; r++) pair_row(w, s, g, mask, i, c, j + r, p[r], ds[r]);
    store_halves(p[0], p[1], w.b_p16 + j * BM + i, BM);
    store_halves(ds[0], ds[1], w.b_ds16 + j * BM + i, BM);
    store_lanes(w.b_ds + j / 2 * BM + i, pair_lanes(ds[0], ds[1]));
  }
#else
  for (i64 j = mask.lo; j < mask.hi; j++) {
    VF p, ds;
    pair_row(w, s, g, mask, i, c, j, p, ds);
    store_lanes(w.b_s + j * BM + i, p);
    store_lanes(w.b_dp + j * BM + i, ds);
  }
#endif
}

// The tile's operands, converted when first wanted.
struct Keys {
  Operand k, k_columns, v;
};

// Queries i .. i + vectors * W of the tile, up to dQ.
static void strip_grads(Work& w, const Site& s, GradTile& g, const StripMask& mask, i64 i, i64 vectors, const Keys& t) {
  const BackwardArgs& a = w.a;
  i64 lo = mask.lo, n = mask.hi - lo, lanes = vectors * W;
  for (i64 c = 0; c < vectors; c++) ask_for_tables(s, i + c * W, lo, n);
  gemm({t.k.p + lo * t.k.m, t.k.m, t.k.k, w.b_q + i, BM, w.b_s + lo * BM + i, BM, n, dim_depth(a.D), lanes, false, nullptr, F(a.scale)});
  gemm({t.v.p + lo * t.v.m, t.v.m, t.v.k, w.b_do + i, BM, w.b_dp + lo * BM + i, BM, n, dim_depth(a.Dv), lanes, false, nullptr, F(1)});
  for (i64 c = 0; c < vectors; c++) pair_rows(w, s, g, mask, i + c * W, c);
  if (!a.dq) return;
  bool& touched = w.touched[i / STRIP];
  i64 step = lo / Mac::DEPTH;
  gemm({t.k_columns.p + step * t.k_columns.k, t.k_columns.m, t.k_columns.k, w.b_ds + step * BM + i, BM, w.b_dq + i, BM, dim_rows(a.D),
        depth(n), lanes, touched, nullptr, F(1)});
  touched = true;
}

// dK += dS Q and dV += P dO for keys kv0 + lo .. kv0 + hi and queries i .. i + n_q of the tile.
static void add_key_grads(const Work& w, i64 kv0, i64 lo, i64 hi, i64 i, i64 n_q) {
  i64 step = i / Mac::DEPTH;
  const Element* p = FLEX_PAIRS ? (const Element*)w.b_p16 : (const Element*)w.b_s;
  const Element* ds = FLEX_PAIRS ? (const Element*)w.b_ds16 : (const Element*)w.b_dp;
  auto add = [&](const KeySum& sum, const Element* left, const F* right, i64 width) {
    if (sum.p)
      gemm({left + lo * BM + i, BM, Mac::DEPTH, right + step * width, width, sum.p + (kv0 + lo) * sum.stride, sum.stride,
            hi - lo, depth(n_q), sum.lanes, true, nullptr, F(1)});
  };
  add(w.dk, ds, w.b_q_rows, round_up(w.a.D, W));
  add(w.dv, p, w.b_do_rows, round_up(w.a.Dv, W));
}

// Packs a tile's queries and gradients, and what every score of a row needs.
static void load_tile(Work& w, i64 b, i64 h, i64 q0, i64 n_q) {
  const BackwardArgs& a = w.a;
  const T* p_q = (const T*)a.q + b * a.q_b + h * a.q_h + q0 * a.q_m;
  const T* p_do = (const T*)a.dout + b * a.do_b + h * a.do_h + q0 * a.do_m;
  const T* p_out = (const T*)a.out + b * a.o_b + h * a.o_h + q0 * a.o_m;
  pack_transposed(p_q, a.q_m, a.q_d, n_q, a.D, w.b_q);
  pack_transposed(p_do, a.do_m, a.do_d, n_q, a.Dv, w.b_do);
  pack_transposed(p_out, a.o_m, 1, n_q, a.Dv, w.b_out);
  pack_panel(p_q, a.q_m, a.q_d, n_q, a.D, w.b_q_rows, round_up(a.D, W));
  pack_panel(p_do, a.do_m, a.do_d, n_q, a.Dv, w.b_do_rows, round_up(a.Dv, W));
  i64 at = (b * a.Hq + h) * a.M + q0;
  for (i64 i = 0; i < BM; i++) {
    w.b_lse[i] = INF, w.b_delta[i] = 0;
    if (i >= n_q) continue;
    F lse = ((const F*)a.lse)[at + i];
    if (lse != -INF) w.b_lse[i] = lse;
  }
  // Summed as gemm sums dP, step by step (but not as AMX's tiles do): where one key has all the
  // weight, O is its V, and dP - delta is the 0 that it should be.
  for (i64 i = 0; i < n_q; i += W) {
    VF sum = {};
    for (i64 k = 0; k < depth(a.Dv); k++)
      sum = Mac::step(sum, load_lanes<VF>(w.b_out + k * BM + i), load_lanes<VF>(w.b_do + k * BM + i));
    store_lanes(w.b_delta + i, sum);
  }
  if (a.dlse)
    for (i64 i = 0; i < n_q; i++) w.b_delta[i] -= ((const F*)a.dlse)[at + i];
  for (bool& touched : w.touched) touched = false;
}

static void write_dq(Work& w, i64 b, i64 h, i64 q0, i64 n_q) {
  const BackwardArgs& a = w.a;
  if (!a.dq) return;
  alignas(64) F ones[BM];
  for (F& one : ones) one = 1;
  for (i64 i = 0; i < n_q; i += STRIP)
    if (!w.touched[i / STRIP])
      for (i64 d = 0; d < a.D; d++) __builtin_memset(w.b_dq + d * BM + i, 0, STRIP * sizeof(F));
  unpack_transposed(w.b_dq, ones, n_q, a.D, (T*)a.dq + b * a.dq_b + h * a.dq_h + q0 * a.dq_m, a.dq_m);
}

static void tile_grads(Work& w, i64 b, i64 h, i64 q0, i64 row, i64 n_q, i64 group) {
  const BackwardArgs& a = w.a;
  i64 b_kv = a.Bkv == 1 ? 0 : b, h_kv = h / (a.Hq / a.Hkv);
  const T* p_k = (const T*)a.k + b_kv * a.k_b + h_kv * a.k_h;
  const T* p_v = (const T*)a.v + b_kv * a.v_b + h_kv * a.v_h;
  load_tile(w, b, h, q0, n_q);

  Uniform u;
  QValues qv;
  KVValues kvv;
  GradTile g;
  hoist_uniform(a.mods, b, h, u);
  hoist_q(a.mods, u, b, h, q0, n_q, a.M, qv);
  Site begin = {a.mods, u, qv, kvv, b, h, q0, 0, a.M - 1, group};
  if (HAS_CAPTURE_GRADS) grad_begin(g, begin);
  StripMask mask;
  KeyTiles keys(a.blocks, a.mods, u, a.M, a.N, b, h, row);
  i64 kv0, n;
  bool masked;
  while (keys.next(kv0, n, masked)) {
    hoist_kv(a.mods, u, b, h, kv0, n, kvv);
    Site s = {a.mods, u, qv, kvv, b, h, q0, kv0, a.M - 1, group};
    Keys t = {};
    for (i64 i = 0; i < n_q; i += STRIP) {
      i64 vectors = least(2, (n_q - i + W - 1) / W);
      if (masked) mask.fill(s, i, vectors, n);
      else mask.keep_all(n);
      if (mask.lo >= mask.hi) continue;
      if (!t.k.p) {
        t.k = rows_operand(p_k + kv0 * a.k_n, a.k_n, a.k_d, n, a.D, w.b_k);
        t.v = rows_operand(p_v + kv0 * a.v_n, a.v_n, a.v_d, n, a.Dv, w.b_v);
        if (FLEX_PAIRS) t.k_columns = columns_operand(p_k + kv0 * a.k_n, a.k_n, a.k_d, n, a.D, w.b_k2);
        else t.k_columns = {t.k.p, t.k.k, t.k.m};
      }
      strip_grads(w, s, g, mask, i, vectors, t);
      if (masked) add_key_grads(w, kv0, mask.lo, mask.hi, i, least(STRIP, n_q - i));
    }
    if (!masked) add_key_grads(w, kv0, 0, n, 0, n_q);
    if (HAS_CAPTURE_GRADS) grad_flush_kv(g, s, n);
  }
  if (HAS_CAPTURE_GRADS) grad_flush_q(g, begin, n_q);
  write_dq(w, b, h, q0, n_q);
}

static void item_grads(Shared& shared, Work& w, i64 item, i64 group, i64 thread) {
  const BackwardArgs& a = w.a;
  i64 chunk = item % a.chunks, h_kv = item / a.chunks % a.Hkv, b_kv = item / a.chunks / a.Hkv;
  i64 heads = a.Hq / a.Hkv, b0 = a.Bkv == 1 ? 0 : b_kv, b1 = a.Bkv == 1 ? a.B : b_kv + 1, q0, row;
  shared.sums.begin(item, thread, w.dk, w.dv);
  for (i64 b = b0; b < b1; b++)
    for (i64 h = h_kv * heads; h < (h_kv + 1) * heads; h++)
      for (i64 tile = chunk; tile < shared.tiles.count; tile += a.chunks) {
        i64 n_q = shared.tiles.get(tile, q0, row);
        if (n_q > 0) tile_grads(w, b, h, q0, row, n_q, group);
      }
  shared.sums.end(item, thread);
}

static void work(Shared& shared, i64 thread) {
  const BackwardArgs& a = shared.a;
#if FLEX_TILES
  Tiles tiles;
#endif
  Work w = {a};
  Arena count = {nullptr};
  lay_out(w, count);
  char* memory = (char*)__builtin_malloc((i64)count.p + 64);
  if (!memory) {
    shared.out_of_memory = true;
    return;
  }
  Arena arena = {(char*)round_up((i64)memory, 64)};
  lay_out(w, arena);
  i64 groups = a.groups ? a.groups : a.Bkv * a.Hkv * a.chunks, group;
  while ((group = __atomic_fetch_add(&shared.next, 1, __ATOMIC_RELAXED)) < groups) {
    i64 first = a.groups ? a.group_start[group] : group, end = a.groups ? a.group_start[group + 1] : group + 1;
    for (i64 i = first; i < end; i++) item_grads(shared, w, a.groups ? a.group_items[i] : i, group, thread);
  }
  __builtin_free(memory);
}

static void reduce(Shared& shared) {
  i64 part;
  while ((part = __atomic_fetch_add(&shared.next_part, 1, __ATOMIC_RELAXED)) < shared.sums.parts()) shared.sums.reduce(part);
}

#if FLEX_PART != 1
// 0: done, 2: out of memory.
extern "C" int flexattn_backward(const BackwardArgs* args) {
  const BackwardArgs& a = *args;
  Shared shared = {a, QueryTiles(a.blocks, a.M), KeyGrads(a)};
  i64 threads = least(a.mods.threads, a.groups ? a.groups : a.Bkv * a.Hkv * a.chunks);
  if (double(a.B * a.Hq) * a.M * a.N * (a.D + a.Dv) < 4e5) threads = 1;  // less than waking a thread costs
  if (threads < 1) threads = 1;
  if (!shared.sums.allocate(threads)) return 2;
  if (threads == 1) {
    work(shared, 0);
    reduce(shared);
  } else {
#pragma omp parallel num_threads(threads)
    {
      work(shared, omp_get_thread_num());
#pragma omp barrier
      reduce(shared);
    }
  }
  return shared.out_of_memory ? 2 : 0;
}
#endif
