// The one matrix product of all kernels: C[m][lanes] = sum_k A(m, k) * B[k][lanes].
//
// Lanes run over queries (or head dims, for the gradients of k and v). A is read where it lies,
// one element at a time with any strides, and broadcast to all lanes: keys and values need no
// packing. B is a packed panel. Registers hold a block of ROWS x 2 vectors of C: with ROWS = 8
// that is 16 accumulators, 2 vectors of B and a broadcast, so each step of k does 16
// multiply-adds for 2 vector and 8 scalar loads, and the multiply-add unit is what limits. With 16
// registers (before AVX512) ROWS = 6. Rows left over go 4 or 1 at a time; a single last vector
// of lanes takes the same blocks one vector wide.
// Accumulators are named members of a recursive struct, not an array: arrays end on the stack
// whenever one loop over them is not unrolled. They start from zero, also where C is added to: a sum
// over all keys then rounds once a tile, not once a key. Each block is a function of its own (noinline):
// inlined into a caller with live registers, compilers spill the accumulators.
#ifndef FLEX_GEMM_H
#define FLEX_GEMM_H
#include "simd.h"
#if FLEX_TILES
#include "amx.h"
#endif

#if FLEX_TILES
constexpr int ROWS = 4;  // only for what is no whole tile
#elif FLEX_ISA >= 2 || defined(__aarch64__)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 6;
#endif
constexpr int STRIP = 2 * W;  // lanes of a register block

// Multiply-add of F.
struct Fma {
  typedef F Element;
  static constexpr int DEPTH = 1;  // elements of A in one step of k
  static FLEX_MEMBER VF load_a(const F* p) { return splat<VF>(*p); }
  static FLEX_MEMBER VF step(VF c, VF a, VF b) { return c + a * b; }
};

#if FLEX_PAIRS
// Two bf16 products a lane: A and B hold pairs of bf16 that are neighbours along k.
struct Dot {
  typedef u16 Element;
  static constexpr int DEPTH = 2;
  static FLEX_MEMBER VF load_a(const u16* p) {
    u32 pair;
    __builtin_memcpy(&pair, p, 4);
    return (VF)(pair - VU{});
  }
  static FLEX_MEMBER VF step(VF c, VF a, VF b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
  }
};

// Lane by lane the pair (bf16 of low, bf16 of high).
FLEX_INLINE VF pair_lanes(VF low, VF high) {
  typedef u16 VH2 __attribute__((vector_size(64)));
  VH2 halves, order;  // halves: low in lanes 0..15, high in 16..31
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(halves) : "v"(high), "v"(low));
  for (int l = 0; l < 32; l++) order[l] = l / 2 + l % 2 * 16;
#if defined(__clang__)
  VH2 pairs;
  for (int l = 0; l < 32; l++) pairs[l] = halves[order[l]];
  return (VF)pairs;
#else
  return (VF)__builtin_shuffle(halves, order);
#endif
}
// Both as bf16, to p and p + stride.
FLEX_INLINE void store_halves(VF first, VF second, u16* p, i64 stride) {
  VH half;
  asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(first));
  store_lanes(p, half);
  asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(second));
  store_lanes(p + stride, half);
}
typedef Dot Mac;
#else
typedef Fma Mac;
#endif
typedef Mac::Element Element;

struct Gemm {
  const Element* a;  // A(m, k) = a[m * a_m + k * a_k]; k counts steps
  i64 a_m, a_k;
  const F* b;  // [k][b_k], b_k >= lanes; holds pairs of bf16 when FLEX_PAIRS
  i64 b_k;
  F* c;  // [m][c_m], c_m >= lanes
  i64 c_m;
  i64 m, k;
  i64 lanes;       // a multiple of W
  bool add;        // C = C * alpha + A B, otherwise C = scale * A B
  const F* alpha;  // [lanes], or null for 1
  F scale;
};

FLEX_KIT void gemm(const Gemm& g);

#if FLEX_PART != 2
template <int R> struct Block {
  VF c0, c1;
  Block<R - 1> below;
  template <int C> FLEX_MEMBER void start() {
    c0 = VF{};
    if (C > 1) c1 = VF{};
    below.template start<C>();
  }
  template <int C> FLEX_MEMBER void step(const Element* a, i64 a_m, VF b0, VF b1) {
    VF x = Mac::load_a(a);
    c0 = Mac::step(c0, x, b0);
    if (C > 1) c1 = Mac::step(c1, x, b1);
    below.template step<C>(a + a_m, a_m, b0, b1);
  }
  template <int C> FLEX_MEMBER void set(F* c, i64 c_m, VF scale) {
    store_lanes(c, c0 * scale);
    if (C > 1) store_lanes(c + W, c1 * scale);
    below.template set<C>(c + c_m, c_m, scale);
  }
  template <int C> FLEX_MEMBER void add(F* c, i64 c_m, VF alpha0, VF alpha1) {
    store_lanes(c, load_lanes<VF>(c) * alpha0 + c0);
    if (C > 1) store_lanes(c + W, load_lanes<VF>(c + W) * alpha1 + c1);
    below.template add<C>(c + c_m, c_m, alpha0, alpha1);
  }
};
template <> struct Block<0> {
  template <int C> FLEX_MEMBER void start() {}
  template <int C> FLEX_MEMBER void step(const Element*, i64, VF, VF) {}
  template <int C> FLEX_MEMBER void set(F*, i64, VF) {}
  template <int C> FLEX_MEMBER void add(F*, i64, VF, VF) {}
};

// Rows m .. m + R, lanes l .. l + C * W.
template <int R, int C> static __attribute__((noinline)) void block(const Gemm& g, i64 m, i64 l) {
  const Element* a = g.a + m * g.a_m;
  const F* b = g.b + l;
  F* c = g.c + m * g.c_m + l;
  Block<R> acc;
  acc.template start<C>();
  i64 a_m = g.a_m, a_k = g.a_k, b_k = g.b_k;
  for (i64 k = g.k; k > 0; k--) {
    VF b0 = load_lanes<VF>(b), b1 = b0;
    if (C > 1) b1 = load_lanes<VF>(b + W);
    acc.template step<C>(a, a_m, b0, b1);
    a += a_k;
    b += b_k;
  }
  if (!g.add) return acc.template set<C>(c, g.c_m, splat<VF>(g.scale));
  VF alpha0 = splat<VF>(F(1)), alpha1 = alpha0;
  if (g.alpha) {
    alpha0 = load_lanes<VF>(g.alpha + l);
    if (C > 1) alpha1 = load_lanes<VF>(g.alpha + l + W);
  }
  acc.template add<C>(c, g.c_m, alpha0, alpha1);
}

template <int C> static void columns(const Gemm& g, i64 l) {
  i64 m = 0;
  for (; m + ROWS <= g.m; m += ROWS) block<ROWS, C>(g, m, l);
  if (ROWS > 4 && m + 4 <= g.m) block<4, C>(g, m, l), m += 4;
  for (; m < g.m; m++) block<1, C>(g, m, l);
}

static void vector_gemm(const Gemm& g) {
  i64 l = 0;
  for (; l + STRIP <= g.lanes; l += STRIP) columns<2>(g, l);
  if (l < g.lanes) columns<1>(g, l);
}

#if FLEX_TILES
// R x C tiles of the product from row m, lane l on: C = C * alpha + scale * A B, or scale * A B.
template <int R, int C> static __attribute__((noinline)) void tiles(const Gemm& g, i64 m, i64 l) {
  alignas(64) F sums[R * SIDE][C * SIDE];
  tile_zero<0>();
  if (C > 1) tile_zero<1>();
  if (R > 1) tile_zero<2>();
  if (R > 1 && C > 1) tile_zero<3>();
  const Element* a = g.a + m * g.a_m;
  const F* b = g.b + l;
  i64 a_row = g.a_m * i64(sizeof *a), b_row = g.b_k * i64(sizeof *b);
  for (i64 k = g.k; k > 0; k -= SIDE) {
    tile_load<6>(b, b_row);
    tile_load<4>(a, a_row);
    tile_product<0, 4, 6>();
    if (C > 1) tile_load<7>(b + SIDE, b_row), tile_product<1, 4, 7>();
    if (R > 1) tile_load<5>(a + SIDE * g.a_m, a_row), tile_product<2, 5, 6>();
    if (R > 1 && C > 1) tile_product<3, 5, 7>();
    a += SIDE * Mac::DEPTH;
    b += SIDE * g.b_k;
  }
  tile_store<0>(&sums[0][0], sizeof sums[0]);
  if (C > 1) tile_store<1>(&sums[0][SIDE], sizeof sums[0]);
  if (R > 1) tile_store<2>(&sums[SIDE][0], sizeof sums[0]);
  if (R > 1 && C > 1) tile_store<3>(&sums[SIDE][SIDE], sizeof sums[0]);
  VF alpha[C], scale = splat<VF>(g.scale);
  for (int c = 0; c < C; c++) alpha[c] = g.alpha ? load_lanes<VF>(g.alpha + l + c * W) : splat<VF>(F(1));
  F* to = g.c + m * g.c_m + l;
  i64 c_m = g.c_m;
  if (g.add)
    for (int r = 0; r < R * SIDE; r++, to += c_m)
      for (int c = 0; c < C; c++)
        store_lanes(to + c * W, load_lanes<VF>(to + c * W) * alpha[c] + load_lanes<VF>(&sums[r][c * W]) * scale);
  else
    for (int r = 0; r < R * SIDE; r++, to += c_m)
      for (int c = 0; c < C; c++) store_lanes(to + c * W, load_lanes<VF>(&sums[r][c * W]) * scale);
}
template <int C> static void tile_columns(const Gemm& g, i64 l) {
  i64 m = 0;
  for (; m + 2 * SIDE <= g.m; m += 2 * SIDE) tiles<2, C>(g, m, l);
  if (m < g.m) tiles<1, C>(g, m, l);
}

FLEX_KIT void gemm(const Gemm& whole) {
  Gemm g = whole;
  i64 m = g.m / SIDE * SIDE, k = g.k / SIDE * SIDE;
  if (m == 0 || k == 0 || g.a_k != Mac::DEPTH) return vector_gemm(g);
  if (g.add) g.scale = 1;
  if (m < g.m) {
    Gemm rows = g;
    rows.m -= m, rows.a += m * g.a_m, rows.c += m * g.c_m;
    vector_gemm(rows);
    g.m = m;
  }
  if (k < g.k) {
    Gemm steps = g;
    steps.k -= k, steps.a += k * g.a_k, steps.b += k * g.b_k;
    vector_gemm(steps);
    g.k = k, g.add = true, g.alpha = nullptr;
  }
  i64 l = 0;
  for (; l + STRIP <= g.lanes; l += STRIP) tile_columns<2>(g, l);
  if (l < g.lanes) tile_columns<1>(g, l);
}
#else
FLEX_KIT void gemm(const Gemm& g) { vector_gemm(g); }
#endif
#endif
#endif
