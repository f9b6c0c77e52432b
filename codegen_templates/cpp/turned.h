// Captured tables whose rows belong to queries, as bias[h, q_idx, kv_idx]: the lanes of one key lie
// a row of the table apart. They are read by whole vectors along the rows, W queries x W keys at a
// time, and turned round in registers; gradients go back the same way.
#ifndef FLEX_TURNED_H
#define FLEX_TURNED_H
#include "pack.h"

// W neighbours of a table's row, as the bits of a VF.
template <class X> FLEX_INLINE VF table_lanes(const X* p) {
  if constexpr (sizeof(X) == sizeof(F)) return load_lanes<VF>((const F*)p);
  else if constexpr (sizeof(X) == 1) return (VF)__builtin_convertvector(load_lanes<FLEX_LANES(unsigned char)>(p), VM);
  else return load_wide(p);
}
template <class X> static __attribute__((noinline)) void turn(const X* base, const i64* row, VF (&to)[W]) {
  for (int l = 0; l < W; l++) to[l] = table_lanes(base + row[l]);
  transpose(to);
}
// Asks for n elements of each lane's row, so that they are there after the product that comes first.
template <class X, class Offsets> FLEX_INLINE void ask_for_rows(const X* base, Offsets offsets, i64 n) {
  decltype(Offsets{}[0] + 0) lanes[W];
  store_lanes(lanes, offsets);
  for (int l = 0; l < W; l++)
    for (i64 j = 0; j < n; j += 64 / i64(sizeof(X))) __builtin_prefetch(base + lanes[l] + j, 0, 2);
}

// The blocks last read, one for each vector of queries of a tile; made anew for each tile of keys.
struct Turned {
  VF rows[BM / W][W];
  i64 held[BM / W];  // the block's first row of keys, or -1
  void clear() {
    for (i64& first : held) first = -1;
  }
  // base[offset of the lane] for row j of keys and the queries from i; that is one of W neighbours
  // of the table which all exist, from row j - j % W on.
  template <class X, class Offsets> FLEX_MEMBER VF row(const X* base, Offsets offsets, i64 i, i64 j) {
    i64 slot = i / W, first = j - j % W;
    if (__builtin_expect(held[slot] != first, 0)) {
      decltype(Offsets{}[0] + 0) lanes[W];
      i64 at[W];
      store_lanes(lanes, offsets);
      for (int l = 0; l < W; l++) at[l] = lanes[l];
      turn(base - j % W, at, rows[slot]);
      held[slot] = first;
    }
    return rows[slot][j - first];
  }
};

// to[i * step + j] += sums[j][i] for i < n_q and j < n, after which sums are zero.
static void add_turned(F* to, i64 step, F* sums, i64 n_q, i64 n) {
  for (i64 j = 0; j < n; j += W)
    for (i64 i = 0; i < n_q; i += W) {
      i64 rows = least(W, n_q - i), columns = least(W, n - j);
      VF x[W];
      VM some = {};
      for (int r = 0; r < W; r++) {
        x[r] = r < columns ? load_lanes<VF>(sums + (j + r) * BM + i) : VF{};
        some |= to_mask(x[r] != 0);
      }
      if (!any(some)) continue;
      for (i64 r = 0; r < columns; r++) store_lanes(sums + (j + r) * BM + i, VF{});
      transpose(x);
      for (i64 l = 0; l < rows; l++) {
        F* p = to + (i + l) * step + j;
        if (columns == W) store_lanes(p, load_lanes<VF>(p) + x[l]);
        else
          for (i64 r = 0; r < columns; r++) p[r] += x[l][r];
      }
    }
}
#endif
