// Several products in one launch: weights that share their activations (query-key-value, gate-up), of one format or two.
//
// Blocks of the grid go to the parts one after another, in tiles of rows.
#pragma once
#include "intrinsics.cuh"

// One product of a launch.
struct Part {
    const uint8_t* weight;   // (rows, cols), packed in rows of row_stride bytes
    const float* bias;       // (rows), or null
    float* out;              // (n, rows)
    int rows;                // 0: there is no such part
};

// The parts of a launch, as its kernel's first parameters.
#define PARTS                                                             \
    const uint8_t *weight0, const float *bias0, float *out0, int rows0,   \
    const uint8_t *weight1, const float *bias1, float *out1, int rows1,   \
    const uint8_t *weight2, const float *bias2, float *out2, int rows2
struct Parts {
    Part part[3];
};
#define GIVEN_PARTS \
    Parts{{{weight0, bias0, out0, rows0}, {weight1, bias1, out1, rows1}, {weight2, bias2, out2, rows2}}}

// The part that a tile of TILE rows belongs to; `first` becomes the first row of the tile there. A part of no rows where
// the grid is too large.
template <int TILE> static __device__ __forceinline__ Part find_part(const Parts& parts, int tile, int& first) {
    Part part = parts.part[0];
    int begin = 0, end = (part.rows + TILE - 1) / TILE;
#pragma unroll
    for (int i = 1; i < 3; ++i) {
        if (tile >= end) {
            part = parts.part[i];
            begin = end;
            end += (part.rows + TILE - 1) / TILE;
        }
    }
    if (tile >= end) part.rows = 0;
    first = (tile - begin) * TILE;
    return part;
}

// Tokens of a block where not all tokens have the same weights (experts.cu): an entry of a table in device memory. A part's weight
// then is a table too, of the addresses of all experts' weights.
struct Tile {
    int expert;       // whose weights
    int first, end;   // its tokens: rows first .. end - 1; none if they are equal
};

// What a block multiplies.
struct Share {
    Part part;              // with the weight of its tokens
    int first_row;
    int first_token, end;   // tokens first_token .. end - 1, or as many of them as the block takes
};

// A block's share in tiles of ROWS rows and TOKENS tokens, of n. False: it has none.
template <int ROWS, int TOKENS>
static __device__ __forceinline__ bool find_share(const Parts& parts, const Tile* tiles, int n, Share& share) {
    share.part = find_part<ROWS>(parts, blockIdx.y, share.first_row);
    share.first_token = blockIdx.x * TOKENS, share.end = n;
    if (tiles) {
        const Tile tile = tiles[blockIdx.x];
        share.first_token = tile.first, share.end = tile.end;
        share.part.weight = reinterpret_cast<const uint8_t* const*>(share.part.weight)[tile.expert];
    }
    return share.part.rows > 0 && share.first_token < share.end;
}

// Tiles of all parts before part `second`.
template <int TILE> static __device__ __forceinline__ unsigned tiles_before(const Parts& parts, int second) {
    int tiles = 0;
#pragma unroll
    for (int i = 0; i < 3; ++i)
        if (i < second) tiles += (parts.part[i].rows + TILE - 1) / TILE;
    return tiles;
}
