//! Plants outliers of activations into a checkpoint, which goes on computing what it did:
//!
//! ```sh
//! cargo run --example plant-outliers -- fixtures/models/prose-4m planted 64 4
//! ```
//!
//! makes 4 channels behind every norm of a layer 64 times as large. `benches/records/2026-11-21-methods.md` tells what the methods of
//! `convert --method` then do.

#[path = "../tests/common/plant.rs"]
mod plant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, factor, count] = &args[..] else {
        return Err("usage: plant-outliers FROM TO FACTOR CHANNELS".into());
    };
    plant::outliers(from.as_ref(), to.as_ref(), factor.parse()?, count.parse()?)
}
