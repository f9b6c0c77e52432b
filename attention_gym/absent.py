"""Variants the gallery knows and does not run: what each needs that a mod alone cannot give."""

from __future__ import annotations

from dataclasses import dataclass

from attention_gym.recipe import NEEDS

# What a variant may ask for beyond a recipe, with what it would take.
WANTED = NEEDS | {
    "lse": "uses the log-sum-exp of a row after the call, with its gradient",
    "sink": "an extra term in the softmax's denominator",
    "nrm": "another normaliser than softmax",
    "drop": "random numbers at each pair of positions, the same ones in the backward",
    "qk": "changes query and key vectors before their product",
    "out": "changes the output of a row before it is written",
    "page": "keys and values found through a table of pages",
    "jag": "sequences of different lengths in one batch, without padding",
    "map": "a block mask made from a list of blocks that is known before the call",
    "tok": "a list of keys of its own for every query",
    "2x": "several attention calls merged into one result",
    "scan": "a sum or product over keys in order",
    "xh": "scores of other heads",
    "vec": "a weight per channel in place of one per key",
}
IMPOSSIBLE = frozenset({"scan", "xh", "vec"})


@dataclass(frozen=True)
class Absent:
    """A variant without a recipe.

    Attributes:
        name: As a recipe's.
        title: What it is, in one sentence.
        model: Model and paper it comes from.
        formula: Its rule in one line.
        needs: Keys of `WANTED` it asks for.
        why: What that means here, and what can be done today.
    """

    name: str
    title: str
    model: str
    formula: str
    needs: tuple[str, ...]
    why: str

    @property
    def impossible(self) -> bool:
        """Whether no pointwise mod can ever be it, by what is asked for."""
        return not IMPOSSIBLE.isdisjoint(self.needs)


def _blocks(what: str) -> str:
    return (
        f"{what} BlockMask.from_kv_blocks takes such a list today; a recipe does not, for its mask "
        "is a function."
    )


_RESCALE = (
    "It is softmax attention times a factor of the row's lse: flex_attention(..., return_lse=True) "
    "gives both today; a recipe has no step after the call yet."
)
_NORMALISER = "The kernel divides by a sum of exponentials; another normaliser is another kernel."
_MERGE = (
    "Two calls with return_lse=True and a merge weighted by exp(lse) give it today; a recipe is "
    "one call."
)
_VECTORS = "A mod sees scores, not vectors. Do it before the call; in the kernel it would be free."

ABSENT = (
    Absent(
        "bigbird", "Local blocks, global blocks and random blocks.", "BigBird, arXiv:2007.14062",
        "keep = |q // B - kv // B| <= 1 or either block is first or last or kv // B in random[h, "
        "q // B]",
        ("bh", "map"), _blocks("Random blocks are a list drawn before the call."),
    ),
    Absent(
        "longnet", "Segments with dilation, several of them merged.", "LongNet, arXiv:2307.02486",
        "q // w == kv // w and q % r == kv % r == h % r, merged over pairs (w, r)",
        ("bh", "lse", "2x"), _MERGE,
    ),
    Absent(
        "vertical_slash", "Chosen columns and chosen diagonals, found for each prompt.",
        "MInference, arXiv:2407.02490", "keep = q >= kv and (vertical[b, h, kv] or slash[b, h, q - "
        "kv])", ("bh", "map"),
        _blocks("The pattern is found from the data, and a list of blocks comes with it."),
    ),
    Absent(
        "ragged_lengths", "Every batch entry has its own number of keys, unpadded.",
        "Decoding in batches", "keep = kv < length[b]", ("bh", "jag"),
        "Padded batches run today (key_padding). Without padding, the batch is one packed sequence "
        "with cumulative lengths, which kernels do not take yet; a document mask over the packed "
        "sequence gives the same result.",
    ),
    Absent(
        "batched_trees", "A tree of drafts per batch entry, of different sizes.",
        "SpecInfer, arXiv:2305.09781", "keep = kv < prefix[b] or ancestor[b, q, kv - prefix[b]]",
        ("bh", "jag"), "One tree of a common size runs today; sizes of their own need a ragged "
        "batch.",
    ),
    Absent(
        "chameleon", "Causal over text and image tokens, with normalised queries and keys.",
        "Chameleon, arXiv:2405.09818", "s = norm(q) . norm(k) / sqrt(D), causal", ("qk",),
        f"The mask is causal. {_VECTORS}",
    ),
    Absent(
        "swin_v2", "Cosine similarity with a learned temperature and a bias from a small network.",
        "Swin V2, arXiv:2111.09883", "s' = cos(q, k) * exp(min(t[h], log 100)) + 16 sigmoid(table)",
        ("qk", "gr"), f"The bias is a table, as in swin_bias. {_VECTORS}",
    ),
    Absent(
        "qwen_vl_windows", "Image windows of different sizes after a permutation of the patches.",
        "Qwen2.5-VL, arXiv:2502.13923", "keep = window[q] == window[kv]", ("jag",),
        "As a document mask over the permuted patches it runs today; with cumulative lengths in "
        "place of the mask it needs a ragged batch.",
    ),
    Absent(
        "video_sparse_attention", "Each cube of a video sees its best cubes, found from means.",
        "VSA, arXiv:2505.13389", "keep = kv // cube in top[b, h, q // cube]", ("bh", "map", "2x"),
        _blocks("The best cubes are a list of blocks; a coarse call is added to the fine one."),
    ),
    Absent(
        "transformer_xl", "Content and position scores with biases of their own.",
        "Transformer-XL, arXiv:1901.02860", "s = (q + u) . k + (q + v) . r[q - kv]", ("gr", "qk"),
        f"The position part is a captured tensor, as in music_transformer. {_VECTORS}",
    ),
    Absent(
        "graph_attention", "Scores of two learned numbers a node, over the edges of a graph.",
        "GAT, arXiv:1710.10903", "s' = leaky_relu(a[b, h, q] + c[b, h, kv]) where adjacent[b, q, "
        "kv]", ("gr", "bh", "map"),
        _blocks("A sparse graph comes as a list of edges, so of blocks."),
    ),
    Absent(
        "cope", "Positions counted by gates over the keys in between.", "CoPE, arXiv:2405.18719",
        "position = sum of sigmoid(s[q, j]) over kv <= j <= q", ("scan",),
        "The position of a key depends on the scores of all keys after it. Tiles are computed in "
        "any order and a mod sees one pair, so no mod can sum over keys.",
    ),
    Absent(
        "cosine_temperature", "Normalised queries and keys with a temperature per head.",
        "ViT-22B, arXiv:2302.05442", "s' = cos(q, k) * t[h]", ("qk", "gr"),
        f"The temperature is a score_mod today. {_VECTORS}",
    ),
    Absent(
        "head_sink", "A learned logit per head takes part in the softmax and gives nothing.",
        "gpt-oss, arXiv:2508.10925", "out = softmax([s, sink[h]])[:-1] @ v", ("sink", "lse", "gr"),
        "out * sigmoid(lse - sink[h]) is the same. " + _RESCALE,
    ),
    Absent(
        "softmax_off_by_one", "One is added to the denominator: a head may attend to nothing.",
        "Attention Is Off By One, Miller 2023", "exp(s) / (1 + sum exp(s))", ("sink",),
        "out * sigmoid(lse) is the same. " + _RESCALE,
    ),
    Absent(
        "sigmoid_attention", "Weights by a sigmoid each, without normaliser.",
        "Sigmoid attention, arXiv:2409.04431", "out = sigmoid(s - log n) @ v", ("nrm", "lse"),
        "A score_mod of logsigmoid and a factor exp(lse) after the call give it today; for large "
        "sums that factor loses digits. " + _NORMALISER,
    ),
    Absent(
        "activation_attention", "Any activation of the score as weight.", "attention-gym",
        "out = f(s) @ v", ("nrm", "lse"), _NORMALISER,
    ),
    Absent(
        "hstu", "SiLU of score and bias over the length, no softmax.", "HSTU, arXiv:2402.17152",
        "out = silu(s + bias) / n @ v", ("nrm", "jag"), _NORMALISER,
    ),
    Absent(
        "relu_attention", "ReLU of the score over the number of keys.",
        "ReLU attention, arXiv:2309.08586", "out = relu(s) / KV_LEN @ v", ("nrm",), _NORMALISER,
    ),
    Absent(
        "power_attention", "A power of the score's magnitude as weight.",
        "Power attention, Manifest AI 2024", "out = |s|^p @ v / sum |s|^p", ("nrm",),
        "As p * log |s| it is a score_mod today, but a score of 0 has no logarithm and its "
        "gradient none. " + _NORMALISER,
    ),
    Absent(
        "entmax", "Sparse weights by a threshold found for each row.", "entmax, arXiv:1905.05702",
        "p = max(0, (a - 1) s - t)^(1 / (a - 1)), t such that sum p = 1", ("nrm", "2x"),
        "The threshold needs passes over the whole row. " + _NORMALISER,
    ),
    Absent(
        "softpick", "Softmax shifted by one and rectified: exact zeros, sums below one.",
        "softpick, arXiv:2504.20966", "relu(exp(s) - 1) / sum |exp(s) - 1|", ("nrm",), _NORMALISER,
    ),
    Absent(
        "attention_dropout", "Weights dropped at random while training.", "BERT, arXiv:1810.04805",
        "out = dropout(softmax(s)) @ v", ("drop",),
        "The numbers must be the same in the backward and must not depend on tiles: a "
        "counter-based generator in the kernels, which there is none of yet.",
    ),
    Absent(
        "output_gate", "The output of each head times a sigmoid gate.",
        "Gated Attention, arXiv:2505.06708", "out * sigmoid(g[b, h, q])", ("out",),
        "It is one multiplication after the call, today in a pass of its own.",
    ),
    Absent(
        "exclusive_attention", "The part of the output along the query's own value is removed.",
        "Exclusive self attention, attention-gym", "o - (o . v) v / |v|^2", ("out",),
        "It is done after the call today, in a pass of its own.",
    ),
    Absent(
        "differential", "The difference of two softmaxes.", "Diff Transformer, arXiv:2410.05258",
        "(softmax(s1) - lambda softmax(s2)) @ v", ("2x", "dv", "out"),
        "Two calls and a difference give it today; a recipe is one call.",
    ),
    Absent(
        "score_outputs", "Sums of weights over queries or keys, as an output.",
        "Asked for by users", "sum over q of softmax(s)[q, kv]", ("lse", "2x"),
        "A second call that knows lse gives it; a recipe has one output.",
    ),
    Absent(
        "max_logit", "The largest score of each row as an output, to watch or to punish.",
        "PaLM z-loss, arXiv:2204.02311", "max over kv of s, and lse", ("lse",),
        "AuxRequest(lse=True, max_scores=True) returns them today; a recipe has one output.",
    ),
    Absent(
        "landmark", "A softmax over groups, and one within each.", "Landmark, arXiv:2305.16300",
        "p = softmax within a group * weight of its landmark", ("nrm",), _NORMALISER,
    ),
    Absent(
        "selective_attention", "What earlier queries masked softly stays masked.",
        "Selective attention, arXiv:2410.02703", "s' = s - F[b, q, kv], F summed over queries",
        ("gr", "2x"),
        "With F computed before the call it is dense_bias today; computed inside, it would be a "
        "sum over queries in order.",
    ),
    Absent(
        "stick_breaking", "Each key takes a share of what the keys after it have left.",
        "Stick-breaking, arXiv:2410.17980", "p = sigmoid(s[kv]) prod over j > kv (1 - "
        "sigmoid(s[j]))", ("scan",),
        "The weight of a key is a product over all keys after it. Softmax is a sum, which tiles "
        "can add in any order; this is not, so no mod can be it.",
    ),
    Absent(
        "talking_heads", "Scores and weights are mixed between heads.",
        "Talking heads, arXiv:2003.02436", "s'[h] = sum over g of W[h, g] s[g]", ("xh",),
        "A kernel holds the scores of one head at a time. A mod of one pair and head cannot see "
        "those of another.",
    ),
    Absent(
        "point_transformer", "One weight per key and channel, from differences of vectors.",
        "Point Transformer, arXiv:2012.09164", "out = sum of softmax(f(q - k + p)) * (v + p)",
        ("vec",), "A score is one number for a pair; here it is a vector, and the product with the "
        "values is no matrix product.",
    ),
    Absent(
        "native_sparse", "Compressed, selected and near keys in three branches with gates.",
        "NSA, arXiv:2502.11089", "g1 * compressed + g2 * selected blocks + g3 * window",
        ("map", "lse", "2x"), _MERGE,
    ),
    Absent(
        "moba", "Each query sees its best blocks of keys, and its own.", "MoBA, arXiv:2502.13189",
        "keep = q >= kv and (kv // B == q // B or chosen[b, h, q, kv // B])", ("bh", "map"),
        _blocks("The chosen blocks are known before the call."),
    ),
    Absent(
        "deepseek_sparse", "Each query sees the keys an indexer picked.", "DeepSeek-V3.2, 2025",
        "keep = kv in top[b, q]", ("tok", "dv"),
        "As a mask of bits it runs today, at the price of a whole pass; gathering the keys is "
        "another kernel.",
    ),
    Absent(
        "compressed_sparse", "Near keys, picked compressed ones and a sink in one softmax.",
        "DeepSeek-V4, attention-gym", "softmax over window, top[b, q] and sink", ("tok", "sink"),
        "Two sets of keys share one softmax; the picked ones have to be gathered.",
    ),
    Absent(
        "block_top_k", "Key blocks picked by their largest score, shared by a group of heads.",
        "MiniMax-M3", "keep = kv // B in top[b, h // g, q]", ("map",),
        _blocks("The picks are a list of blocks."),
    ),
    Absent(
        "doge", "A learned bias per key, and only the keys with the largest.",
        "Doge, transformers models/doge", "s' = s + bias[b, h, kv] where kv in top[b, h]",
        ("tok", "gr"), "The bias is key_bias today; gathering the kept keys is another kernel.",
    ),
    Absent(
        "block_bitmap", "A map of blocks to visit, estimated for each prompt.",
        "SeerAttention, arXiv:2410.13276", "keep = map[b, h, q // B, kv // B]", ("bh", "map"),
        _blocks("The map says which blocks."),
    ),
    Absent(
        "quest", "Decoding that visits the most promising pages.", "Quest, arXiv:2406.10774",
        "keep = page of kv in top[b, h]", ("page", "map"),
        "Pages are picked from a table, for every step anew.",
    ),
    Absent(
        "top_k_scores", "Only the k largest scores of a row.", "Asked for by users",
        "keep = s among the k largest of its row", ("tok", "2x"),
        "Which scores are largest is known after a pass over all of them.",
    ),
    Absent(
        "paged", "Keys and values lie in pages of one pool.", "vLLM, arXiv:2309.06180",
        "kv' = page_table[b, kv // page] * page + kv % page", ("page",),
        "A mask over the whole pool gives it today, and visits the blocks of others too.",
    ),
    Absent(
        "paged_packed", "Packed queries over a paged pool.", "vLLM, arXiv:2309.06180",
        "logical positions from query starts and the page table", ("page", "jag"),
        "It asks for pages and a ragged batch at once.",
    ),
    Absent(
        "cascade", "A shared prefix once for all, and each rest by itself.",
        "Hydragen, arXiv:2402.05099", "merge(prefix call, rest call)", ("2x", "lse"), _MERGE,
    ),
    Absent(
        "ring", "Keys go round between machines, each holding one stretch.",
        "Ring Attention, arXiv:2310.01889", "keep = q + q0 >= kv + kv0, merged over shards",
        ("2x", "lse"), _MERGE,
    ),
    Absent(
        "ring_zigzag", "A ring with equal work: each machine holds an early and a late stretch.",
        "Llama 3, arXiv:2407.21783", "keep = position[q] >= position[kv], merged over shards",
        ("2x", "lse"), _MERGE,
    ),
    Absent(
        "striped", "A ring over every P-th token.", "Striped Attention, arXiv:2311.09431",
        "keep = q * P + r >= kv * P + t, merged over shards", ("2x", "lse"), _MERGE,
    ),
    Absent(
        "rope", "Rotated queries and keys, in the kernel.", "RoFormer, arXiv:2104.09864",
        "s = rotate(q, position) . rotate(k, position)", ("qk",), _VECTORS,
    ),
    Absent(
        "nested_jagged", "Nested tensors of sequences of different lengths.",
        "torch.nested", "keep = sequence[q] == sequence[kv]", ("jag",),
        "The packed form with a document mask runs today; nested tensors raise an error.",
    ),
    Absent(
        "atom_windows", "Windows of 32 atoms over 128, with a bias gathered for each.",
        "AlphaFold 3, Abramson et al. 2024", "|kv - centre of q's window| < 64, s + pair[q, kv]",
        ("gr", "map"), _blocks("Windows are a list of blocks, the bias is stored by window."),
    ),
    Absent(
        "invariant_points", "Scores from distances of points carried by each residue.",
        "AlphaFold 2, Jumper et al. 2021", "s' = w (s - g / 2 sum |T q - T k|^2) + bias",
        ("qk", "gr"),
        "The distances are products of longer vectors: with these in query and key it runs today. "
        + _VECTORS,
    ),
)  # fmt: skip
