// What pack.h declares: transposes, widenings, bf16 pairs.
#ifndef FLEX_PACK_KIT_H
#define FLEX_PACK_KIT_H
#include "pack.h"

// One round of a perfect shuffle: rows r and r + W/2 interleaved into rows 2r and 2r + 1.
FLEX_INLINE void shuffle_rows(const VF (&x)[W], VF (&y)[W]) {
#if defined(__clang__)
  for (int r = 0; r < W; r++)
    for (int l = 0; l < W; l++) y[r][l] = x[r / 2 + l % 2 * (W / 2)][l / 2 + r % 2 * (W / 2)];
#else
  VM low, high;
  for (int l = 0; l < W; l++) low[l] = l / 2 + l % 2 * W, high[l] = low[l] + W / 2;
#pragma GCC unroll 8
  for (int r = 0; r < W / 2; r++) {
    y[2 * r] = __builtin_shuffle(x[r], x[r + W / 2], low);
    y[2 * r + 1] = __builtin_shuffle(x[r], x[r + W / 2], high);
  }
#endif
}

FLEX_KIT __attribute__((noinline)) void transpose(VF (&block)[W]) {
  VF x[W], y[W];
#pragma GCC unroll 16
  for (int r = 0; r < W; r++) x[r] = block[r];
  shuffle_rows(x, y);
  if (W > 2) shuffle_rows(y, x);
  if (W > 4) shuffle_rows(x, y);
  if (W > 8) shuffle_rows(y, x);
  constexpr bool IN_Y = W == 2 || W == 8;
#pragma GCC unroll 16
  for (int r = 0; r < W; r++) block[r] = IN_Y ? y[r] : x[r];
}

// One packed element of row `p`, column step d: an F, or two neighbouring bf16 as the bits of one.
// And W steps at once of a row with stride 1.
#if FLEX_PAIRS
FLEX_INLINE F pack_one(const T* p, i64 stride, i64 d, i64 columns) {
  u32 high = 2 * d + 1 < columns ? p[(2 * d + 1) * stride].bits : 0;
  return bits_to_float(p[2 * d * stride].bits | high << 16);
}
FLEX_INLINE VF pack_lanes(const T* p) { return load_lanes<VF>((const F*)p); }
#else
FLEX_INLINE F pack_one(const T* p, i64 stride, i64 d, i64 columns) { return widen<F>(p[d * stride]); }
FLEX_INLINE VF pack_lanes(const T* p) { return load_wide(p); }
#endif

FLEX_KIT void pack_transposed(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst) {
  i64 steps = depth(columns), padded = dim_depth(columns);
  for (i64 r0 = 0; r0 < rows; r0 += W) {
    i64 n = least(W, rows - r0), d = 0;
    const T* p = src + r0 * row_stride;
    if (column_stride == 1)
      for (; (d + W) * Mac::DEPTH <= columns; d += W) {
        VF x[W];
        for (int r = 0; r < W; r++) x[r] = r < n ? pack_lanes(p + r * row_stride + d * Mac::DEPTH) : VF{};
        transpose(x);
        for (int l = 0; l < W; l++) store_lanes(dst + (d + l) * BM + r0, x[l]);
      }
    for (; d < steps; d++)
      for (int r = 0; r < W; r++) dst[d * BM + r0 + r] = r < n ? pack_one(p + r * row_stride, column_stride, d, columns) : F(0);
    for (; d < padded; d++) store_lanes(dst + d * BM + r0, VF{});
  }
}

FLEX_KIT void unpack_transposed(const F* src, const F* factor, i64 rows, i64 columns, T* out, i64 row_stride) {
  for (i64 r0 = 0; r0 < rows; r0 += W) {
    i64 n = least(W, rows - r0);
    VF f = load_lanes<VF>(factor + r0);
    VM live = to_mask(f != 0);
    for (i64 d = 0; d < columns; d += W) {
      i64 c = least(W, columns - d);
      VF x[W];
      for (int l = 0; l < W; l++) x[l] = l < c ? select(live, load_lanes<VF>(src + (d + l) * BM + r0) * f, VF{}) : VF{};
      transpose(x);
      for (i64 r = 0; r < n; r++) {
        T* p = out + (r0 + r) * row_stride + d;
        if (c == W) {
          store_narrow(p, x[r]);
          continue;
        }
        for (i64 l = 0; l < c; l++) narrow(x[r][l], p + l);
      }
    }
  }
}

FLEX_KIT void pack_rows(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst, i64 width) {
  for (i64 r = 0; r < rows; r++) {
    const T* p = src + r * row_stride;
    i64 d = 0;
    if (column_stride == 1)
      for (; d + W <= columns; d += W) store_lanes(dst + r * width + d, load_wide(p + d));
    for (; d < columns; d++) dst[r * width + d] = widen<F>(p[d * column_stride]);
    for (; d < width; d++) dst[r * width + d] = 0;
  }
}

#if FLEX_PAIRS
FLEX_KIT void pack_row_pairs(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst, i64 width) {
  for (i64 r = 0; r < rows; r += 2) {
    const T *p = src + r * row_stride, *next = p + row_stride;
    bool paired = r + 1 < rows;
    F* to = dst + r / 2 * width;
    i64 d = 0;
    if (column_stride == 1)
      for (; d + W <= columns; d += W) {
        VU low = __builtin_convertvector(load_lanes<VH>((const u16*)(p + d)), VU), high = {};
        if (paired) high = __builtin_convertvector(load_lanes<VH>((const u16*)(next + d)), VU);
        store_lanes(to + d, (VF)(low | high << 16));
      }
    for (; d < columns; d++) {
      u32 high = paired ? next[d * column_stride].bits : 0;
      to[d] = bits_to_float(p[d * column_stride].bits | high << 16);
    }
    for (; d < width; d++) to[d] = 0;
  }
}

FLEX_KIT void pack_column_pairs(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, u16* dst, i64 width) {
  for (i64 r = 0; r < rows; r++, dst += width) {
    const T* p = src + r * row_stride;
    if (column_stride == 1) __builtin_memcpy(dst, p, columns * sizeof(T));
    else
      for (i64 d = 0; d < columns; d++) dst[d] = p[d * column_stride].bits;
    __builtin_memset(dst + columns, 0, (width - columns) * sizeof(T));
  }
}
#endif

#if FLEX_TILES
FLEX_KIT void pack_columns(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, u16* dst) {
  for (i64 r0 = 0; r0 < rows; r0 += 2 * W) {
    i64 pairs = least(W, (rows - r0 + 1) / 2), d = 0;
    const T* p = src + r0 * row_stride;
    if (column_stride == 1)
      for (; d + W <= columns; d += W) {
        VF x[W];
        for (int r = 0; r < W; r++) {
          bool low = r0 + 2 * r < rows, high = r0 + 2 * r + 1 < rows;
          const T* row = p + 2 * r * row_stride + d;
          VU bits = low ? __builtin_convertvector(load_lanes<VH>((const u16*)row), VU) : VU{};
          if (high) bits |= __builtin_convertvector(load_lanes<VH>((const u16*)(row + row_stride)), VU) << 16;
          x[r] = (VF)bits;
        }
        transpose(x);
        for (int l = 0; l < W; l++) store_lanes((F*)(dst + (d + l) * BN + r0), x[l]);
      }
    for (; d < columns; d++)
      for (i64 r = r0; r < r0 + 2 * pairs; r++) dst[d * BN + r] = r < rows ? src[r * row_stride + d * column_stride].bits : 0;
  }
}
#endif
#endif
