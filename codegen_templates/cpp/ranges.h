// Which blocks of keys a row of blocks must see, from the ranges that the mods give for its queries.
#ifndef FLEX_RANGES_H
#define FLEX_RANGES_H
#include "mods.h"
#include "pack.h"

// The blocks of one row. Piece p of the ranges touches blocks begin[p] .. end[p], and keeps all of
// full_begin[p] .. full_end[p]; what some piece keeps whole is full, what else one touches partial.
class RangeRow {
  static constexpr int PIECES = NUM_RANGES ? NUM_RANGES : 1;
  static constexpr i64 NONE = i64(1) << 62;
  i64 begin[PIECES], end[PIECES], full_begin[PIECES], full_end[PIECES];

  static i64 cut(i64 key, i64 N) { return key < 0 ? 0 : least(key, N); }
  static bool among(const i64* begin, const i64* end, i64 block) {
    bool found = false;
    for (int p = 0; p < NUM_RANGES; p++) found |= begin[p] <= block && block < end[p];
    return found;
  }
  bool is(bool full, i64 block) const {
    bool kept = among(full_begin, full_end, block);
    return full ? kept : !kept && among(begin, end, block);
  }
  // The first end of a range after `block`, up to which all blocks are of one kind; NONE after all.
  i64 change_after(i64 block) const {
    i64 next = NONE;
    const i64* ends[] = {begin, end, full_begin, full_end};
    for (const i64* at : ends)
      for (int p = 0; p < NUM_RANGES; p++)
        if (at[p] > block) next = least(next, at[p]);
    return next;
  }

 public:
  // Rows of q_block queries and columns of kv_block keys; the row exists: row * q_block < M.
  void fill(const Mods& a, const Uniform& u, i64 b, i64 h, i64 row, i64 q_block, i64 kv_block, i64 M, i64 N) {
    i64 low[2][PIECES] = {}, high[2][PIECES] = {}, q0 = row * q_block, q1 = least(q0 + q_block, M) - 1;
    kv_ranges(a, u, b, h, q0, low[0], high[0]);
    kv_ranges(a, u, b, h, q1, low[1], high[1]);
    for (int p = 0; p < NUM_RANGES; p++) {
      i64 first = cut(low[0][p], N), stop = cut(high[1][p], N);
      begin[p] = first / kv_block;
      end[p] = first < stop ? (stop + kv_block - 1) / kv_block : 0;
      full_begin[p] = (cut(low[1][p], N) + kv_block - 1) / kv_block;
      full_end[p] = q0 + q_block > M ? 0 : cut(high[0][p], N) / kv_block;
    }
  }
  // The first run of full, or of partial, blocks from `block` on; false where there is none.
  bool next(bool full, i64 block, i64& first, i64& stop) const {
    for (first = block; !is(full, first);)
      if ((first = change_after(first)) == NONE) return false;
    for (stop = change_after(first); is(full, stop);) stop = change_after(stop);
    return true;
  }
};
#endif
