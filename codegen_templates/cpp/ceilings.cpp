// What the machine could do at best, for benchmarks: multiply-adds from registers, reads of memory.
#include "gemm.h"

// Of the type that products of T take: 2 W DEPTH operations each.
FLEX_INLINE VF multiply_adds(i64 rounds, const F* p) {
  VF c[16], x = load_lanes<VF>(p), y = load_lanes<VF>(p + W);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) c[i] = load_lanes<VF>(p + i);  // equal ones would become one
  for (i64 r = 0; r < rounds; r++) {
    x = rounded(x);  // for all that is known another one: the product is not moved out
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) c[i] = Mac::step(c[i], x, y);
  }
  VF sum = {};
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) sum += c[i];
  return sum;
}

FLEX_INLINE VF read(const F* p, i64 count) {
  VF c[8] = {};
  for (i64 i = 0; i + 8 * W <= count; i += 8 * W)
#pragma GCC unroll 8
    for (int l = 0; l < 8; l++) c[l] += load_lanes<VF>(p + i + l * W);
  VF sum = {};
#pragma GCC unroll 8
  for (int l = 0; l < 8; l++) sum += c[l];
  return sum;
}

#if FLEX_TILES
// Products of whole tiles, four to a round.
extern "C" double flexattn_multiply_adds(i64 rounds, i64 threads, F* sink) {
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    tile_zero<4>(), tile_zero<5>(), tile_zero<6>(), tile_zero<7>();
    for (i64 r = 0; r < rounds; r++)
      tile_product<0, 4, 6>(), tile_product<1, 4, 7>(), tile_product<2, 5, 6>(), tile_product<3, 5, 7>();
  }
  return 4.0 * 2 * SIDE * SIDE * SIDE * Mac::DEPTH * double(rounds) * double(threads);
}
#else
// 16 multiply-adds a round on each of so many threads; the number of operations of all.
extern "C" double flexattn_multiply_adds(i64 rounds, i64 threads, F* sink) {
#pragma omp parallel num_threads(threads)
  {
    VF sum = multiply_adds(rounds, sink);
    if (sum[0] == INF) store_lanes(sink, sum);  // never; but it might be
  }
  return 32.0 * W * Mac::DEPTH * double(rounds) * double(threads);
}
#endif

// Every thread reads its share of p[count].
extern "C" void flexattn_read(const F* p, i64 count, i64 threads, F* sink) {
  i64 share = count / threads;
#pragma omp parallel for num_threads(threads)
  for (i64 t = 0; t < threads; t++) {
    VF sum = read(p + t * share, share);
    if (sum[0] == INF) store_lanes(sink, sum);
  }
}
