//! Saga and scheduler under random schedules: the real handlers over a real store; the bus, the runners and the results
//! are played by the test, from a seed. Deliveries come late, twice and out of order between topics; the scheduler is
//! killed and built again; runners are lost, stand still, and seem to be gone; clients cancel. Whatever happens, each
//! execution ends once, its saga ends once, every attempt begins once at most and at the runner that was chosen for it,
//! no runner has more than it offers, none idles while something waits, and every slot comes back.
//!
//! `MESH_TEST_SEEDS=FIRST..LAST` runs other seeds than the usual ones; a seed that fails is printed and fails again.

mod world;

use anyhow::Context as _;
use world::World;

/// The seeds of an ordinary run.
const SEEDS: std::ops::Range<u64> = 0..250;
const SEEDS_VARIABLE: &str = "MESH_TEST_SEEDS";

fn seeds() -> anyhow::Result<std::ops::Range<u64>> {
    let Ok(text) = std::env::var(SEEDS_VARIABLE) else { return Ok(SEEDS) };
    let (first, last) = text.split_once("..").context("not FIRST..LAST")?;
    Ok(first.parse()?..last.parse()?)
}

#[tokio::test]
async fn whatever_happens_each_execution_ends_once_and_every_slot_comes_back() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut totals = world::Totals::default();
    for seed in seeds()? {
        let world = World::new(folder.path(), seed).await?;
        let told = world.play().await.with_context(|| format!("{SEEDS_VARIABLE}={seed}..{}", seed + 1))?;
        totals.add(&told);
    }
    println!("{totals:?}");
    // A simulation in which nothing goes wrong shows nothing.
    if std::env::var_os(SEEDS_VARIABLE).is_none() {
        anyhow::ensure!(totals.all_happened(), "{totals:?}");
    }
    Ok(())
}
