//! Which server gets a call.

use std::sync::Arc;

use super::endpoint::Endpoint;

/// Of two servers at random the one with fewer calls on their way ("power of two choices"): nearly as even as the least of
/// all, and callers that see the same do not all go to the same one.
///
/// Servers that were tried already, or are left out, are chosen only where there is no other. Where all are left out, all
/// are used: calls that fail are no worse than calls that are not made.
pub(crate) fn choose(endpoints: &[Arc<Endpoint>], tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
    let is_new = |endpoint: &Arc<Endpoint>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
    let select = |accept: &dyn Fn(&Arc<Endpoint>) -> bool| {
        let candidates: Vec<&Arc<Endpoint>> = endpoints.iter().filter(|endpoint| accept(endpoint)).collect();
        (!candidates.is_empty()).then_some(candidates)
    };
    let candidates = select(&|endpoint| is_new(endpoint) && endpoint.is_available())
        .or_else(|| select(&|endpoint| endpoint.is_available()))
        .or_else(|| select(&|endpoint| is_new(endpoint)))
        .or_else(|| select(&|_| true))?;
    let loads: Vec<usize> = candidates.iter().map(|endpoint| endpoint.load()).collect();
    let index = lighter(&loads, |bound| rand::random_range(0..bound));
    candidates.get(index).map(|endpoint| Arc::clone(endpoint))
}

/// Whether there is a server that has not been tried and should be called.
pub(crate) fn has_other(endpoints: &[Arc<Endpoint>], tried: &[Arc<Endpoint>]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.is_available() && !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)))
}

/// The index of the lighter of two that are drawn. `draw` gives a number below its argument.
fn lighter(loads: &[usize], mut draw: impl FnMut(usize) -> usize) -> usize {
    if loads.len() < 2 {
        return 0;
    }
    let first = draw(loads.len());
    // Another one than the first, each with the same chance.
    let second = (first + 1 + draw(loads.len() - 1)) % loads.len();
    if loads[second] < loads[first] { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lighter_of_two_different_ones_is_taken() {
        let draws = |first, second| {
            let mut numbers = [first, second].into_iter();
            move |bound| {
                let number = numbers.next().unwrap();
                assert!(number < bound);
                number
            }
        };
        assert_eq!(lighter(&[5], draws(0, 0)), 0);
        assert_eq!(lighter(&[5, 1, 9], draws(0, 0)), 1);
        assert_eq!(lighter(&[5, 1, 9], draws(0, 1)), 0);
        assert_eq!(lighter(&[5, 1, 9], draws(2, 0)), 0);
        assert_eq!(lighter(&[5, 1, 9], draws(2, 1)), 1);
        assert_eq!(lighter(&[3, 3], draws(1, 0)), 1, "the first drawn, of two that are alike");
    }
}
