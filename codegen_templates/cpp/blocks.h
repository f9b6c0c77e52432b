// Which tiles of queries there are, and which tiles of keys each must see.
#ifndef FLEX_BLOCKS_H
#define FLEX_BLOCKS_H
#include "mods.h"
#include "pack.h"
#include "ranges.h"

// Tiles of at most BM queries that never cross a row of blocks.
struct QueryTiles {
  i64 block, per_block, count, M;
  QueryTiles(const BlockTables& t, i64 M) : M(M) {
    block = NUM_RANGES || t.kv_num_blocks || t.full_kv_num_blocks ? least(t.q_block, M) : M;
    if (M <= 0) { count = 0; return; }
    per_block = (block + BM - 1) / BM;
    count = (M + block - 1) / block * per_block;
  }
  // First query, row of blocks, and number of queries (0 or less: nothing there).
  i64 get(i64 tile, i64& q0, i64& row) const {
    row = tile / per_block;
    q0 = row * block + tile % per_block * BM;
    return least(BM, least((row + 1) * block, M) - q0);
  }
};

// Walks the keys of one row of blocks: partial blocks first, then full ones, neighbours of one
// class merged, cut in tiles of at most BN keys. The blocks come from the tables or the mods' ranges.
class KeyTiles {
  const BlockTables& t;
  i64 N, b, h, row;
  const int* index;
  i64 step, left, kv = 0, end = 0;
  bool on_full, partial = HAS_MASK_MOD;
  RangeRow ranges;
  i64 from = 0;  // ranges: blocks before were walked

  void open(const int* numbers, i64 number_at, const int* indices, i64 index_at, i64 index_step, i64 cols) {
    index = indices + index_at;
    step = index_step;
    left = numbers && row < t.rows ? least(numbers[number_at], cols) : 0;
  }
  void open_full() {
    on_full = true;
    partial = false;
    open(t.full_kv_num_blocks, b * t.full_num_b + h * t.full_num_h + row * t.full_num_r, t.full_kv_indices,
         b * t.full_idx_b + h * t.full_idx_h + row * t.full_idx_r, t.full_idx_c, t.full_cols);
  }
  i64 take() {
    i64 block = *index;
    index += step;
    left--;
    return block;
  }
  bool open_listed() {
    while (kv >= end) {
      if (left <= 0) {
        if (on_full) return false;
        open_full();
        continue;
      }
      i64 block = take();
      if (block < 0 || block * t.kv_block >= N) continue;
      kv = block * t.kv_block;
      while (left > 0 && *index == block + 1) block = take();
      end = least((block + 1) * t.kv_block, N);
    }
    return true;
  }
  bool open_ranged() {
    i64 first, stop;
    while (!ranges.next(on_full, from, first, stop)) {
      if (on_full) return false;
      on_full = true, partial = false, from = 0;
    }
    from = stop, kv = first * t.kv_block, end = least(stop * t.kv_block, N);
    return true;
  }

 public:
  KeyTiles(const BlockTables& t, const Mods& a, const Uniform& u, i64 M, i64 N, i64 b, i64 h, i64 row)
      : t(t), N(N), b(b), h(h), row(row), left(0), on_full(true) {
    if (NUM_RANGES) {
      on_full = false;
      ranges.fill(a, u, b, h, row, t.q_block, t.kv_block, M, N);
      return;
    }
    if (!t.kv_num_blocks && !t.full_kv_num_blocks) {
      end = N;
      return;
    }
    on_full = false;
    open(t.kv_num_blocks, b * t.num_b + h * t.num_h + row * t.num_r, t.kv_indices,
         b * t.idx_b + h * t.idx_h + row * t.idx_r, t.idx_c, t.cols);
  }
  // The next tile: keys kv0 .. kv0 + n, and whether the mask is to be asked. False at the end.
  bool next(i64& kv0, i64& n, bool& masked) {
    if (kv >= end && !(NUM_RANGES ? open_ranged() : open_listed())) return false;
    kv0 = kv;
    n = least(BN, end - kv);
    kv += n;
    masked = partial;
    return true;
  }
};
#endif
