//! Cases of a property by seed: the same seed gives the same case, and one that fails is made smaller before it is told.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::seeds::Seeds;

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 1,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// The property holds for the case of each seed.
#[track_caller]
pub fn hold_for_each<S: Strategy>(
    seeds: Seeds,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    for seed in seeds.range() {
        if let Err(error) = runner(seed).run(strategy, &property) {
            panic!("seed {seed}: {error}");
        }
    }
}

/// What is wrong in the first case in which the property does not hold and says so with these words.
pub fn first_failure<S: Strategy>(
    seeds: Seeds,
    strategy: &S,
    words: &str,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Option<String> {
    seeds.range().find_map(|seed| {
        let case = strategy.new_tree(&mut runner(seed)).ok()?.current();
        let failure = property(case).err()?.to_string();
        failure.contains(words).then(|| format!("seed {seed}: {failure}"))
    })
}
