// What intrinsics.cuh wraps in PTX, on the CPU: loads, asynchronous copies, ldmatrix, and the tensor cores' products.
// Fragments lie over lanes as the PTX ISA 8.4 says (9.7.13.4, 9.7.14.5); `group` is lane / 4 and `in_group` lane % 4 there. They are
// CUTLASS's too, whose layouts have run on hardware (cute/atom/mma_traits_sm75.hpp and _sm80.hpp).
#pragma once

inline uint4 load_once(const void* from, STAND_IN_SITE) {
    stand_in::aligned(from, 16, STAND_IN_HERE("load_once"));
    return *static_cast<const uint4*>(from);
}

inline int dp4a_unsigned_signed(uint32_t a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += int(a >> i & 255u) * int(int8_t(b >> i));
    return c;
}
inline uint32_t permute_or_sign(uint32_t x, uint32_t y, uint32_t selector) {
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t s = selector >> 4 * i & 15u, byte = (s & 4 ? y : x) >> 8 * (s & 3) & 255u;
        out |= (s < 8 ? byte : byte < 128 ? 0u : 255u) << 8 * i;
    }
    return out;
}

// ---- cp.async
inline void cp_async16(void* to, const void* from, bool there = true) {
    stand_in::copy_later({to, from, 16, there ? 16u : 0u, 0});
}
inline void cp_async_commit() { stand_in::close_group(); }
template <int NEWEST> inline void cp_async_wait() {
    // The copies are made here, in code that the sanitizers watch.
    for (stand_in::Copy copy; stand_in::take_due(NEWEST, copy);)
        *static_cast<uint4*>(copy.to) = copy.given ? *static_cast<const uint4*>(copy.from) : uint4{0, 0, 0, 0};
}

// ---- ldmatrix: lane 8 i + r brings the address of row r of matrix i, (8, 8) of 16 bits
inline uint32_t stand_in_matrix_word(const stand_in::Meeting& rows, unsigned matrix, unsigned lane, stand_in::Site site) {
    const char* row = stand_in::brought<const char*>(rows, matrix * 8 + lane / 4, site);
    if (reinterpret_cast<uintptr_t>(row) % 16) stand_in::fail("%s (%s:%u): the row of lane %u is not aligned to 16 bytes", site.what, site.file, site.line, matrix * 8 + lane / 4);
    return *reinterpret_cast<const uint32_t*>(row + lane % 4 * 4);
}
inline void ldmatrix_x4(uint32_t (&out)[4], const void* row, STAND_IN_SITE) {
    const stand_in::Site site = STAND_IN_HERE("ldmatrix_x4");
    const stand_in::Meeting rows = stand_in::meet_with(ALL_LANES, row, site);
    for (unsigned i = 0; i < 4; ++i) out[i] = stand_in_matrix_word(rows, i, stand_in::lane(), site);
}
inline void ldmatrix_x2(uint32_t (&out)[2], const void* row, STAND_IN_SITE) {
    const stand_in::Site site = STAND_IN_HERE("ldmatrix_x2");
    const stand_in::Meeting rows = stand_in::meet_with(ALL_LANES, row, site);
    for (unsigned i = 0; i < 2; ++i) out[i] = stand_in_matrix_word(rows, i, stand_in::lane(), site);
}
// Transposed: register i of a lane holds rows 2 in_group and 2 in_group + 1 of column `group` of matrix i.
inline void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row, STAND_IN_SITE) {
    const stand_in::Site site = STAND_IN_HERE("ldmatrix_x4_trans");
    const stand_in::Meeting rows = stand_in::meet_with(ALL_LANES, row, site);
    const unsigned column = stand_in::lane() / 4, first = stand_in::lane() % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
        out[i] = 0;
        for (unsigned j = 0; j < 2; ++j) {
            const char* at = stand_in::brought<const char*>(rows, i * 8 + first + j, site);
            if (reinterpret_cast<uintptr_t>(at) % 16) stand_in::fail("%s (%s:%u): a row is not aligned to 16 bytes", site.what, site.file, site.line);
            out[i] |= uint32_t(reinterpret_cast<const uint16_t*>(at)[column]) << 16 * j;
        }
    }
}

// ---- mma.sync: every lane brings its registers of A and B and then works out its own four numbers of D
struct StandInFragments { uint32_t a[4], b[2]; };
template <class Element> inline float stand_in_element(uint32_t word, unsigned i) {
    const uint16_t bits = uint16_t(word >> 16 * i);
    Element x;
    __builtin_memcpy(&x, &bits, 2);
    if constexpr (std::is_same_v<Element, half>) return float(x);
    else return __bfloat162float(x);
}
// c + a sum of 16 products. Devices align the terms to the largest, cut off what is more than 24 bits below it, and cut off what a
// float does not hold of the sum (Fasi, Higham, Mikaitis & Pranesh 2021, for V100, T4 and A100).
inline float stand_in_sum(float c, const float (&products)[16]) {
#if defined(STAND_IN_ROUNDING)
    float largest = fabsf(c), plain = c;
    for (float p : products) largest = std::fmax(largest, fabsf(p)), plain += p;
    if (largest == 0.0f || !std::isfinite(plain) || !std::isfinite(largest)) return plain;
    const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
    double sum = std::trunc(double(c) / unit);
    for (float p : products) sum += std::trunc(double(p) / unit);
    sum *= unit;
    const float rounded = float(sum);
    return std::fabs(double(rounded)) > std::fabs(sum) ? std::nextafter(rounded, 0.0f) : rounded;
#else
    for (float p : products) c += p;
    return c;
#endif
}
template <class Element> inline void stand_in_mma_k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], stand_in::Site site) {
    StandInFragments mine;
    __builtin_memcpy(mine.a, a, 16);
    __builtin_memcpy(mine.b, b, 8);
    const stand_in::Meeting all = stand_in::meet_with(ALL_LANES, mine, site);
    const unsigned group = stand_in::lane() / 4, in_group = stand_in::lane() % 4;
    StandInFragments row[4], column[2][4];  // of the lanes that hold this lane's rows of A and its columns of B
    for (unsigned i = 0; i < 4; ++i) {
        row[i] = stand_in::brought<StandInFragments>(all, group * 4 + i, site);
        for (unsigned c = 0; c < 2; ++c) column[c][i] = stand_in::brought<StandInFragments>(all, (in_group * 2 + c) * 4 + i, site);
    }
    for (unsigned i = 0; i < 4; ++i) {    // row group + 8 (i / 2), column 2 in_group + i % 2
        float products[16];
        for (unsigned k = 0; k < 16; ++k) // in register i / 2 + 2 (k / 8) of A, k / 8 of B, of lane k % 8 / 2 of its group
            products[k] = stand_in_element<Element>(row[k % 8 / 2].a[i / 2 + k / 8 * 2], k % 2) *
                          stand_in_element<Element>(column[i % 2][k % 8 / 2].b[k / 8], k % 2);
        d[i] = stand_in_sum(d[i], products);
    }
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], STAND_IN_SITE) {
    stand_in_mma_k16<half>(d, a, b, STAND_IN_HERE("mma_m16n8k16_f16"));
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], STAND_IN_SITE) {
    stand_in_mma_k16<__nv_bfloat16>(d, a, b, STAND_IN_HERE("mma_m16n8k16_bf16"));
}
// Integers begin at c.
inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int c, STAND_IN_SITE) {
    for (int& x : d) x = c;
    const stand_in::Site site = STAND_IN_HERE("mma_m16n8k32_s8");
    StandInFragments mine;
    __builtin_memcpy(mine.a, a, 16);
    __builtin_memcpy(mine.b, b, 8);
    const stand_in::Meeting all = stand_in::meet_with(ALL_LANES, mine, site);
    const unsigned group = stand_in::lane() / 4, in_group = stand_in::lane() % 4;
    for (unsigned j = 0; j < 4; ++j) {    // four of k in each register
        const auto row = stand_in::brought<StandInFragments>(all, group * 4 + j, site);
        for (unsigned i = 0; i < 4; ++i) {
            const auto column = stand_in::brought<StandInFragments>(all, (in_group * 2 + i % 2) * 4 + j, site);
            for (unsigned half = 0; half < 2; ++half)
                d[i] = __dp4a(int(row.a[i / 2 + half * 2]), int(column.b[half]), d[i]);
        }
    }
}
// k = 16: every lane brings two registers of A and one of B.
inline void mma_m16n8k16_s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, int c, STAND_IN_SITE) {
    for (int& x : d) x = c;
    struct Fragments { uint32_t a[2], b; };
    const stand_in::Site site = STAND_IN_HERE("mma_m16n8k16_s8");
    const stand_in::Meeting all = stand_in::meet_with(ALL_LANES, Fragments{{a0, a1}, b}, site);
    const unsigned group = stand_in::lane() / 4, in_group = stand_in::lane() % 4;
    for (unsigned j = 0; j < 4; ++j) {
        const auto row = stand_in::brought<Fragments>(all, group * 4 + j, site);
        for (unsigned i = 0; i < 4; ++i)
            d[i] = __dp4a(int(row.a[i / 2]), int(stand_in::brought<Fragments>(all, (in_group * 2 + i % 2) * 4 + j, site).b), d[i]);
    }
}
