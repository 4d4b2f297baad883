//! Deterministic Gaussian noise: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) and the Box-Muller transform. For noise
//! models only; nothing secret comes from here.

/// A stream of standard normal numbers, determined by a seed and the place where it is used.
pub(super) struct Gauss {
    state: u64,
    spare: Option<f64>,
}

impl Gauss {
    /// The stream of place `(major, minor)` under `seed`.
    pub(super) fn new(seed: u64, major: u64, minor: u64) -> Self {
        let mut this = Self { state: seed, spare: None };
        for word in [major, minor] {
            this.state = this.next_word() ^ word.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        this
    }

    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next_word() >> 11) + 1) as f64 * 2f64.powi(-53)
    }

    /// The next standard normal number.
    pub(super) fn sample(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Adds noise of standard deviation `rms` to each slot.
    pub(super) fn add(&mut self, slots: &mut [f64], rms: f64) {
        for slot in slots {
            *slot += rms * self.sample();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Gauss;

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let mut gauss = Gauss::new(7, 1, 2);
        let draws: Vec<f64> = (0..200_000).map(|_| gauss.sample()).collect();
        let moment = |k: i32| draws.iter().map(|x| x.powi(k)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn streams_differ_by_place_and_repeat_by_seed() {
        let first = |seed, major, minor| Gauss::new(seed, major, minor).sample();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        assert_ne!(first(1, 2, 3), first(1, 3, 2));
        assert_ne!(first(1, 2, 3), first(2, 2, 3));
    }
}
