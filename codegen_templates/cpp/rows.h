// Products of a few rows with many keys, lanes along the head dims: keys are read once, where they
// lie, by whole vectors. (gemm.h has lanes over queries, most of which would idle here.)
//
// dots    R rows x W / R keys at a time: W accumulators, which a tree of W - 1 additions folds into
//         one vector of dot products; each vector of a key serves R rows.
// sums    R rows x C vectors of head dims at a time: R C accumulators over all keys of a tile.
// With R = 4 and C = 4 both do 16 multiply-adds for 8 loads. Blocks are functions of their own, as
// in gemm.h; their loops over accumulators are unrolled whole, so none goes to the stack.
#ifndef FLEX_ROWS_H
#define FLEX_ROWS_H
#include "gemm.h"
#include "pack.h"

constexpr int MOST_ROWS = W < 4 ? W : 4;        // rows of a block
constexpr i64 DIM_STEP = W * Mac::DEPTH;        // head dims in a vector of a key
constexpr i64 dim_steps(i64 d) { return (d + DIM_STEP - 1) / DIM_STEP; }

// Lanes l with bit STEP unset: a[l] + a[l + STEP]; with it set: b[l] + b[l - STEP]. One blend and one
// shuffle, where pairs from both would take two shuffles, of which some CPUs do one at a time.
template <int STEP> FLEX_INLINE VF fold(VF a, VF b) {
#if defined(__clang__)
  VF r;
  for (int l = 0; l < W; l++) r[l] = l & STEP ? b[l] + b[l ^ STEP] : a[l] + a[l ^ STEP];
  return r;
#else
  VM own, other;
  for (int l = 0; l < W; l++) own[l] = l & STEP ? l + W : l, other[l] = own[l] ^ STEP;
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
#endif
}
// Lane l: the sum of all lanes of c[l], N = W of them.
template <int N> struct Tree {
  static FLEX_MEMBER VF of(const VF* c) { return fold<N / 2>(Tree<N / 2>::of(c), Tree<N / 2>::of(c + N / 2)); }
};
template <> struct Tree<1> {
  static FLEX_MEMBER VF of(const VF* c) { return *c; }
};

// The sum and the largest of all lanes.
FLEX_INLINE F total(VF x) {
  VF c[W] = {x};
  return Tree<W>::of(c)[0];
}
FLEX_INLINE VF far_lanes(VF x, int step) {
  VM other;
  for (int l = 0; l < W; l++) other[l] = l ^ step;
#if defined(__clang__)
  VF r;
  for (int l = 0; l < W; l++) r[l] = x[other[l]];
  return r;
#else
  return __builtin_shuffle(x, other);
#endif
}
FLEX_INLINE F largest(VF x) {
#pragma GCC unroll 4
  for (int step = W / 2; step; step /= 2) x = max_lanes(x, far_lanes(x, step));
  return x[0];
}

// A vector of a key; of bf16 pairs as they are, else widened.
#if FLEX_PAIRS
FLEX_INLINE VF key_lanes(const T* p) { return load_lanes<VF>((const F*)p); }
#else
FLEX_INLINE VF key_lanes(const T* p) { return load_wide(p); }
#endif

// Asks for the line of p, if VECTOR vectors past the start of a line; it is read soon, so likely, and
// beyond the end of memory nothing happens. Asked between products: a tile's lines all at once fill
// the buffers of those underway, and then products run after memory's time instead of within it.
template <int SIZE> FLEX_INLINE void ask(const T* p, int vector) {
  if (vector * SIZE % 64 == 0) __builtin_prefetch(p, 0, 2);
}

// s[r][j] = scale * (row r of q) . (key j) for W / R keys; rows of q hold steps vectors. Asks for
// keys `ahead` elements further on, if not 0.
template <int R>
static __attribute__((noinline)) void dots(const T* k, i64 k_n, const F* q, i64 steps, F scale, F* s, i64 s_r, i64 ahead) {
  constexpr int KEYS = W / R;
  VF c[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) c[i] = VF{};
  i64 q_r = steps * W;
  for (i64 d = 0; d < steps; d++) {
    VF x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) x[r] = load_lanes<VF>(q + r * q_r + d * W);
#pragma GCC unroll 16
    for (int j = 0; j < KEYS; j++) {
      const T* p = k + j * k_n + d * DIM_STEP;
      if (ahead) ask<DIM_STEP * sizeof(T)>(p + ahead, 0);
      VF y = key_lanes(p);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) c[r * KEYS + j] = Mac::step(c[r * KEYS + j], y, x[r]);
    }
  }
  VF all = Tree<W>::of(c) * scale;
  F lanes[W];
  store_lanes(lanes, all);
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) __builtin_memcpy(s + r * s_r, lanes + r * KEYS, KEYS * sizeof(F));
}

// o[r][.] = alpha[r] * o[r][.] + sum_j p[r][j] * (value j) for C vectors of head dims; asks ahead likewise.
template <int R, int C>
static __attribute__((noinline)) void sums(const T* v, i64 v_n, i64 n, const F* p, i64 p_r, const F* alpha, F* o, i64 o_r, i64 ahead) {
  VF c[R * C];
#pragma GCC unroll 16
  for (VF& sum : c) sum = VF{};
  for (i64 j = 0; j < n; j++) {
    VF y[C];
#pragma GCC unroll 4
    for (int i = 0; i < C; i++) {
      const T* at = v + j * v_n + i * W;
      if (ahead) ask<W * sizeof(T)>(at + ahead, i);
      y[i] = load_wide(at);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      VF x = splat<VF>(p[r * p_r + j]);
#pragma GCC unroll 4
      for (int i = 0; i < C; i++) c[r * C + i] += x * y[i];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int i = 0; i < C; i++) {
      F* to = o + r * o_r + i * W;
      store_lanes(to, load_lanes<VF>(to) * alpha[r] + c[r * C + i]);
    }
}

template <int R> static void sums_of_rows(const T* v, i64 v_n, i64 n, const F* p, i64 p_r, const F* alpha, F* o, i64 width, i64 ahead) {
  i64 d = 0;
  for (; d + 4 * W <= width; d += 4 * W) sums<R, 4>(v + d, v_n, n, p, p_r, alpha, o + d, width, ahead);
  for (; d < width; d += W) sums<R, 1>(v + d, v_n, n, p, p_r, alpha, o + d, width, ahead);
}

// f(Count<R>{}, r) for blocks of R rows from row r on that make up `rows`.
template <int N> struct Count { static constexpr int value = N; };
template <class Do> FLEX_INLINE void by_rows(i64 rows, Do f) {
  i64 r = 0;
  for (; r + MOST_ROWS <= rows; r += MOST_ROWS) f(Count<MOST_ROWS>{}, r);
  if (MOST_ROWS > 2 && r + 2 <= rows) f(Count<2>{}, r), r += 2;
  if (r < rows) f(Count<1>{}, r);
}

// Rows of keys or values with `width` elements each, zero beyond `columns`: in place if they lie
// so, else copied.
struct Rows {
  const T* p;
  i64 stride;
};
static void copy_rows(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, T* dst, i64 width) {
  for (i64 r = 0; r < rows; r++) {
    const T* p = src + r * row_stride;
    if (column_stride == 1) __builtin_memcpy(dst + r * width, p, columns * sizeof(T));
    else
      for (i64 d = 0; d < columns; d++) dst[r * width + d] = p[d * column_stride];
    __builtin_memset((void*)(dst + r * width + columns), 0, (width - columns) * sizeof(T));
  }
}
static Rows rows_in(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, i64 width, T* scratch) {
  if (column_stride == 1 && width == columns) return {src, row_stride};
  copy_rows(src, row_stride, column_stride, rows, columns, scratch, width);
  return {scratch, width};
}
#endif
