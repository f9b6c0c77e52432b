// Arguments of the kernels, as flat lists of 8-byte fields: a pointer, i64 or double each.
//
// The caller packs by the order of these fields, `Mods` last in every struct.
// Notation: B batch, Hq query heads, Hkv key heads (Hq is a multiple of Hkv), M queries, N keys,
// D and Dv head dims of q/k and of v. T is the storage type of q, k, v (FLEX_INPUT), F the
// compute type: double for double inputs, otherwise float. All strides count elements; 0 is
// a broadcast. Innermost stride 1 is meant where none is listed.
#ifndef FLEX_ARGS_H
#define FLEX_ARGS_H

typedef long long i64;

// What the spliced hooks may read; the tail of every argument struct.
struct Mods {
  const void* const* captures;    // one data pointer per captured tensor
  const i64* capture_sizes;       // sizes of all dimensions of all captures, one after the other
  const i64* capture_strides;     // the same for strides, in elements
  const i64* ints;                // lifted integers, in order
  const double* floats;           // lifted floats, in order
  i64* fault;                     // i64[4]: b, h, q_idx, kv_idx of the first fault; may be null
  void* const* grads;             // backward: one buffer per captured gradient, else null
  const i64* grad_group_strides;  // backward: elements from group to group in that buffer, or 0
  i64 threads;                    // at most so many threads; 1 never enters OpenMP
};

// Block tables, int32, as in PyTorch's BlockMask; all four null: every block is partial, or the
// mods have ranges (NUM_RANGES) that tell.
// Rows of `rows` blocks of q_block queries, columns of kv_block keys; a table has B or 1, Hq or 1
// as leading sizes (stride 0 where 1). Entries beyond the lengths are ignored.
struct BlockTables {
  const int* kv_num_blocks;  // [B, Hq, rows] partial blocks of each row
  i64 num_b, num_h, num_r;
  const int* kv_indices;  // [B, Hq, rows, cols]
  i64 idx_b, idx_h, idx_r, idx_c;
  i64 cols;                       // at most so many are read
  const int* full_kv_num_blocks;  // the same for full blocks; null: there are none
  i64 full_num_b, full_num_h, full_num_r;
  const int* full_kv_indices;
  i64 full_idx_b, full_idx_h, full_idx_r, full_idx_c;
  i64 full_cols;
  i64 rows;  // rows of the tables; a query beyond the last row attends to nothing
  i64 q_block, kv_block;
};

// flexattn_forward
struct ForwardArgs {
  const void* q;  // T [B, Hq, M, D]
  const void* k;  // T [B, Hkv, N, D]   batch stride 0 when all batches share it
  const void* v;  // T [B, Hkv, N, Dv]
  void* out;      // T [B, Hq, M, Dv]   last stride 1
  void* lse;      // F [B, Hq, M] contiguous, natural log; may be null
  void* max;      // F [B, Hq, M] contiguous, row maximum of the modified score; may be null
  i64 B, Hq, Hkv, M, N, D, Dv;
  i64 q_b, q_h, q_m, q_d;
  i64 k_b, k_h, k_n, k_d;
  i64 v_b, v_h, v_n, v_d;
  i64 o_b, o_h, o_m;
  double scale;  // score = scale * q.k
  BlockTables blocks;
  Mods mods;
};

// flexattn_decode: the same for few queries; M <= q_block where there are tables or ranges
struct DecodeArgs {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  void* lse;
  void* max;
  i64 B, Hq, Hkv, M, N, D, Dv;
  i64 q_b, q_h, q_m, q_d;
  i64 k_b, k_h, k_n, k_d;
  i64 v_b, v_h, v_n, v_d;
  i64 o_b, o_h, o_m;
  double scale;
  i64 parts;   // >= 1: keys are cut into so many parts; choose from shapes alone
  i64 packed;  // 1: heads that share keys share a row of blocks too, and are read together
  BlockTables blocks;
  Mods mods;
};

// flexattn_backward
//
// Work items are (bkv, hkv, chunk), numbered (bkv * Hkv + hkv) * chunks + chunk, where bkv counts
// the batches of k (B or 1) and chunk c takes every chunks-th tile of queries, c first. An item
// walks all query heads, and all batches, that share its keys. Items of one group run one after
// the other on one thread, and share the group's part of every captured gradient's buffer.
// Results do not depend on the number of threads.
struct BackwardArgs {
  const void* q;     // T [B, Hq, M, D]
  const void* k;     // T [Bkv, Hkv, N, D]
  const void* v;     // T [Bkv, Hkv, N, Dv]
  const void* out;   // T [B, Hq, M, Dv]   last stride 1
  const void* lse;   // F [B, Hq, M] contiguous, natural log
  const void* dout;  // T [B, Hq, M, Dv]
  const void* dlse;  // F [B, Hq, M] contiguous; may be null
  void* dq;          // T [B, Hq, M, D]    last stride 1; null: not wanted, here and below
  void* dk;          // T [Bkv, Hkv, N, D]   last stride 1
  void* dv;          // T [Bkv, Hkv, N, Dv]  last stride 1
  i64 B, Bkv, Hq, Hkv, M, N, D, Dv;
  i64 q_b, q_h, q_m, q_d;
  i64 k_b, k_h, k_n, k_d;
  i64 v_b, v_h, v_n, v_d;
  i64 o_b, o_h, o_m;
  i64 do_b, do_h, do_m, do_d;
  i64 dq_b, dq_h, dq_m;
  i64 dk_b, dk_h, dk_n;
  i64 dv_b, dv_h, dv_n;
  double scale;
  i64 chunks;              // >= 1; choose from shapes alone
  i64 groups;              // number of groups, 0: every item is a group of its own
  const i64* group_start;  // [groups + 1] positions in group_items; unused when groups is 0
  const i64* group_items;  // items of group g: group_items[group_start[g] .. group_start[g + 1])
  BlockTables blocks;
  Mods mods;
};

// flexattn_tiles: the class of every block of a mask, from mask_mod itself
struct TilesArgs {
  unsigned char* classes;  // [B, H, rows, cols] contiguous, or [count] for listed blocks: 0 empty,
                           // 1 partial, 2 full; a block cut by the end of a length is judged by
                           // the part inside
  i64 b0, h0, row0;        // first batch, head and block row to classify
  i64 B, H, rows, cols;    // how many of each (cols: all)
  i64 M, N;                // lengths of the whole mask
  i64 q_block, kv_block;
  const i64* listed;       // null for all blocks, else ((b * H + h) * rows + row) * cols + column
  i64 count;               // how many are listed
  Mods mods;
};

#endif
