//! `kernels/cuda/blocks/codebooks.cuh` holds the points that `formats` holds. `QCONV_BLESS=1` writes it anew.

use qconv_formats::block::codebook_tables as tables;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
// The points of the codebooks, as packed digits: two bits for each of eight weights (IQ1, IQ2), three for each of four (IQ3).
//
// Made from formats/src/block/codebook_tables.rs by a test, which also tells when they differ:
//     QCONV_BLESS=1 cargo test -p qconv-kernels --lib codebooks
#pragma once
#include \"../intrinsics.cuh\"
";

#[test]
fn codebooks_are_those_of_the_formats() {
    let all: [(&str, &[u16]); 6] = [
        ("IQ2_XXS", &tables::IQ2_XXS),
        ("IQ2_XS", &tables::IQ2_XS),
        ("IQ2_S", &tables::IQ2_S),
        ("IQ1", &tables::IQ1),
        ("IQ3_XXS", &tables::IQ3_XXS),
        ("IQ3_S", &tables::IQ3_S),
    ];
    let mut want = HEAD.to_owned();
    for (name, points) in all {
        writeln!(want, "\nstatic __device__ const uint16_t {name}_POINTS[{}] = {{", points.len()).unwrap();
        for line in points.chunks(16) {
            let line: Vec<String> = line.iter().map(u16::to_string).collect();
            writeln!(want, "    {},", line.join(", ")).unwrap();
        }
        want.push_str("};\n");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/blocks/codebooks.cuh");
    if std::env::var_os("QCONV_BLESS").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    let got = std::fs::read_to_string(&path).unwrap();
    assert!(got == want, "codebooks.cuh is not what the formats have; set QCONV_BLESS=1 to write it anew");
}
