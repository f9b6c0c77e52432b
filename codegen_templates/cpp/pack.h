// Moves tiles between user memory and kernel scratch: transposes, widenings, bf16 pairs.
//
// A source row is a query or a key, a source column a head dim, with any strides. Nothing outside
// [rows][columns] is ever read.
#ifndef FLEX_PACK_H
#define FLEX_PACK_H
#include "gemm.h"

FLEX_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
FLEX_INLINE i64 round_up(i64 x, i64 step) { return (x + step - 1) / step * step; }
// Hands out consecutive aligned pieces of scratch; with a null base it only counts.
struct Arena {
  char* p;
  template <class X> void take(X*& piece, i64 bytes) {
    piece = (X*)p;
    p += round_up(bytes, 64);
  }
};
constexpr i64 depth(i64 k) { return (k + Mac::DEPTH - 1) / Mac::DEPTH; }  // steps for k elements
// Of head dims, where tiles multiply: rounded up to whole ones, as steps that add zeros or as rows
// of a product that nobody reads.
constexpr i64 dim_depth(i64 d) { return FLEX_TILES ? (d + 31) / 32 * 16 : depth(d); }
constexpr i64 dim_rows(i64 d) { return FLEX_TILES ? (d + 15) / 16 * 16 : d; }

// A W x W block in place, by log2(W) rounds; all rows stay in registers.
FLEX_KIT void transpose(VF (&block)[W]);

// dst[dim_depth(columns)][BM]: source rows become lanes; lanes beyond `rows` are zero up to a vector.
FLEX_KIT void pack_transposed(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst);

// The way back: rows q of `out` from lanes of src[columns][BM], each lane times factor[lane];
// a factor of 0 gives 0 even from NaN.
FLEX_KIT void unpack_transposed(const F* src, const F* factor, i64 rows, i64 columns, T* out, i64 row_stride);

static void narrow_row(const F* src, i64 n, T* dst) {
  i64 d = 0;
  for (; d + W <= n; d += W) store_narrow(dst + d, load_lanes<VF>(src + d));
  for (; d < n; d++) narrow(src[d], dst + d);
}

// dst[rows][width] of F: widened rows, zero beyond `columns`.
FLEX_KIT void pack_rows(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst, i64 width);

#if FLEX_PAIRS
// dst[(rows + 1) / 2][width] of pairs (row 2i, row 2i + 1), zero beyond `rows` and `columns`.
FLEX_KIT void pack_row_pairs(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst, i64 width);

// dst[rows][width] of bf16, zero beyond `columns`; width even.
FLEX_KIT void pack_column_pairs(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, u16* dst, i64 width);
#endif

// A(m, k) operand of a Gemm.
struct Operand {
  const Element* p;
  i64 m, k;
};

// A tile of keys (or values) as A: m over rows and k over columns, or the other way round. Read
// in place where its type and strides allow, else converted into `scratch`.
#if FLEX_PAIRS
static Operand rows_operand(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, void* scratch) {
  i64 width = 2 * dim_depth(columns);
  if (column_stride == 1 && columns == width) return {(const Element*)src, row_stride, 2};
  pack_column_pairs(src, row_stride, column_stride, rows, columns, (u16*)scratch, width);
  return {(const Element*)scratch, width, 2};
}
#if FLEX_TILES
// dst[columns][BN] of bf16: source rows become pairs along a row, as tiles take them; zero beyond
// `rows` up to a pair.
FLEX_KIT void pack_columns(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, u16* dst);
static Operand columns_operand(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, void* scratch) {
  pack_columns(src, row_stride, column_stride, rows, columns, (u16*)scratch);
  return {(const Element*)scratch, BN, 2};
}
#else
static Operand columns_operand(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, void* scratch) {
  pack_row_pairs(src, row_stride, column_stride, rows, columns, (F*)scratch, columns);
  return {(const Element*)scratch, 2, 2 * columns};
}
#endif
#elif FLEX_INPUT == 1 || FLEX_INPUT == 2
static Operand rows_operand(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, void* scratch) {
  pack_rows(src, row_stride, column_stride, rows, columns, (F*)scratch, columns);
  return {(const F*)scratch, columns, 1};
}
static Operand columns_operand(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, void* scratch) {
  pack_rows(src, row_stride, column_stride, rows, columns, (F*)scratch, columns);
  return {(const F*)scratch, 1, columns};
}
#else
static Operand rows_operand(const T* src, i64 row_stride, i64 column_stride, i64, i64, void*) {
  return {src, row_stride, column_stride};
}
static Operand columns_operand(const T* src, i64 row_stride, i64 column_stride, i64, i64, void*) {
  return {src, column_stride, row_stride};
}
#endif
// B[k over rows][width of lanes over columns], as a gradient of keys or values takes it.
static void pack_panel(const T* src, i64 row_stride, i64 column_stride, i64 rows, i64 columns, F* dst, i64 width) {
#if FLEX_PAIRS
  pack_row_pairs(src, row_stride, column_stride, rows, columns, dst, width);
#else
  pack_rows(src, row_stride, column_stride, rows, columns, dst, width);
#endif
}

// Bytes of scratch either needs.
constexpr i64 operand_bytes(i64 columns) {
  if (FLEX_TILES) return BN * 2 * dim_depth(columns) * i64(sizeof(u16));
  return FLEX_INPUT == 0 || FLEX_INPUT == 3 ? 0 : BN * (columns + 1) * i64(sizeof(F));
}

#if FLEX_PART != 2
#include "pack_kit.h"
#endif
#endif
