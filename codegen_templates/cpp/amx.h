// Products of bf16 pairs by the tile unit (AMX): whole tiles of the product that gemm.h describes.
//
// A tile register holds 16 rows of 64 bytes: of C 16 rows x 16 lanes, of A 16 rows x 16 pairs, of
// B 16 pairs x 16 lanes. A block is 2 x 2 tiles of C, so that each step of 16 pairs does 4
// products of 16 cycles for 4 loads of 8. Tiles of C leave through a buffer: only vectors can scale,
// rescale and add. What is no whole tile (m or k modulo 16) is left to the vectors of gemm.h.
// Registers: C 0-3, A 4-5, B 6-7. The compiler knows nothing of them; all accesses are volatile.
#ifndef FLEX_AMX_H
#define FLEX_AMX_H
#include "simd.h"

constexpr int SIDE = 16;  // rows, pairs and lanes of a tile

template <int R> FLEX_INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(R)); }
template <int R> FLEX_INLINE void tile_load(const void* p, i64 row_bytes) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(R), "r"(p), "r"(row_bytes) : "memory");
}
template <int R> FLEX_INLINE void tile_store(void* p, i64 row_bytes) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(R), "r"(p), "r"(row_bytes) : "memory");
}
template <int C, int A, int B> FLEX_INLINE void tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

// While one lives, this thread's tiles are 16 rows of 64 bytes. Others (oneDNN) keep tiles too and
// remember that they do: what was configured before is so again afterwards.
class Tiles {
  alignas(64) unsigned char before[64];

 public:
  Tiles() {
    alignas(64) unsigned char wanted[64] = {1};
    for (int r = 0; r < 8; r++) wanted[16 + 2 * r] = 64, wanted[48 + r] = SIDE;
    asm volatile("sttilecfg %0" : "=m"(before));
    asm volatile("ldtilecfg %0" ::"m"(wanted));
  }
  ~Tiles() {
    if (before[0]) asm volatile("ldtilecfg %0" ::"m"(before));
    else asm volatile("tilerelease");
  }
  Tiles(const Tiles&) = delete;
};
#endif
