// A strip: two vectors of queries against a tile of keys; its mask, and faults found in it.
#ifndef FLEX_STRIP_H
#define FLEX_STRIP_H
#include "mods.h"
#include "pack.h"
#ifndef FLEX_KEY_LANES
#define FLEX_KEY_LANES 0  // 1: lanes run over keys, and q_idx and kv_idx of the hooks are exchanged
#endif

// Rows of keys are left out in whole steps: blocks of fewer cost gemm.h more than they save.
constexpr i64 KEY_STEP = FLEX_TILES ? 32 : ROWS == 8 ? 8 : 2;

// The mask of one strip, asked before any score is computed.
struct StripMask {
  VM keep[BN][2];
  i64 lo, hi;   // no pair is kept outside these rows of keys
  bool needed;  // false: all pairs are kept

  void fill(const Site& s, i64 i, i64 vectors, i64 n) {
    VM every = splat<VM>(-1);
    lo = n, hi = 0;
    for (i64 j = 0; j < n; j++) {
      VM some = {};
      for (i64 c = 0; c < vectors; c++) {
        VM m = mask_mod(s, i + c * W, j);
        keep[j][c] = m;
        some |= m;
        every &= m;
      }
      if (any(some)) {
        if (lo > j) lo = j;
        hi = j + 1;
      }
    }
    needed = !all(every);
    lo -= lo % KEY_STEP;
    hi = least(n, round_up(hi, KEY_STEP));
  }
  void keep_all(i64 n) { lo = 0, hi = n, needed = false; }
};

// The lexicographically first fault of a call, in whatever order threads meet them.
struct FaultSink {
  i64* at;
  bool found = false;
  char lock = 0;

  __attribute__((noinline)) void report(const Site& s, i64 i, i64 j, u32 lanes) {
    i64 lane = s.q0 + i + __builtin_ctz(lanes), row = s.kv0 + j;
    i64 here[4] = {s.b, s.h, FLEX_KEY_LANES ? row : lane, FLEX_KEY_LANES ? lane : row};
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
    }
    bool first = !found;
    if (found && at) {
      int d = 0;
      while (d < 3 && here[d] == at[d]) d++;
      first = here[d] < at[d];
    }
    if (first && at)
      for (int d = 0; d < 4; d++) at[d] = here[d];
    found = true;
    __atomic_clear(&lock, __ATOMIC_RELEASE);
  }
  // `kept`: lanes whose score counts; of the tile's n queries only real ones are asked.
  FLEX_MEMBER void check(const Site& s, i64 i, i64 j, i64 n, VF score, VM kept) {
    u32 bits = lane_bits(fault(s, i, j, score) & kept & first_lanes(n - i));
    if (bits) report(s, i, j, bits);
  }
};
#endif
