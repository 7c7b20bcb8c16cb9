//! The fuzz targets on their seeds and on changed ones: the same changes at each run. `make fuzz` goes further.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test")]

#[expect(unreachable_pub, reason = "another crate has it too")]
#[path = "../hack/fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Changed inputs of each seed.
const CHANGES: usize = 6000;

/// Numbers that are the same at each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// Changes an input a little, by pieces of its own and of others.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], numbers: &mut Numbers) {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(input.len() + 1);
        let length = numbers.below(24).min(input.len() - at);
        match numbers.below(5) {
            0 => drop(input.drain(at..at + length)),
            1 => {
                let piece = input[at..at + length].to_vec();
                let to = numbers.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            2 => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len());
                let piece = other[from..(from + 24).min(other.len())].to_vec();
                input.splice(at..at + length, piece);
            }
            3 if at < input.len() => input[at] ^= 1 << numbers.below(8),
            _ => input.insert(at, b" \t\n{}[]\",:\\-0"[numbers.below(13)]),
        }
    }
}

#[test]
fn what_strangers_hand_us_breaks_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/fuzz/seeds");
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> = fs::read_dir(root.join(name)).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no seeds");
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for seed in &seeds {
            target(seed);
            let mut input = seed.clone();
            for n in 0..CHANGES {
                if n % 16 == 0 {
                    input.clone_from(seed);
                }
                change(&mut input, &seeds, &mut numbers);
                let given = input.clone();
                let outcome = std::panic::catch_unwind(|| target(&given));
                assert!(outcome.is_ok(), "{name}: {:?}", String::from_utf8_lossy(&input));
            }
        }
    }
}
