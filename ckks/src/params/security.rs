//! The security table: how large `log2(QP)` may be for a ring degree.
//!
//! Source: Bossuat et al., *Security Guidelines for Implementing Homomorphic Encryption*, eprint 2024/463
//! (IACR Communications in Cryptology 1(4), 2025), table for uniform ternary secrets, error `sigma = 3.19`,
//! 128 bits against classical attacks. Estimators of 2026 put the standard's own boundary at about 126 bits, so
//! that checked parameters keep 1-3 % below it.

/// One line of the table.
struct Bound {
    log_n: u32,
    /// As published.
    published: f64,
    /// As enforced here.
    kept: f64,
}

const TABLE: [Bound; 6] = [
    Bound { log_n: 12, published: 106.0, kept: 105.0 },
    Bound { log_n: 13, published: 214.0, kept: 207.0 },
    Bound { log_n: 14, published: 430.0, kept: 417.0 },
    Bound { log_n: 15, published: 868.0, kept: 845.0 },
    Bound { log_n: 16, published: 1747.0, kept: 1700.0 },
    Bound { log_n: 17, published: 3523.0, kept: 3420.0 },
];

fn bound(log_n: u32) -> Option<&'static Bound> {
    TABLE.iter().find(|bound| bound.log_n == log_n)
}

/// The largest `log2(QP)` that checked parameters of degree `2^log_n` may have: 128-bit classical security for
/// a uniform ternary secret, with slack. `None` for degrees outside the table.
pub fn max_log_qp(log_n: u32) -> Option<f64> {
    bound(log_n).map(|bound| bound.kept)
}

/// The bound as published in eprint 2024/463, without slack. `None` for degrees outside the table.
pub fn published_max_log_qp(log_n: u32) -> Option<f64> {
    bound(log_n).map(|bound| bound.published)
}

/// Secrets of this Hamming weight and no other may be sparse: the ephemeral secret of bootstrapping (Bossuat et al., eprint
/// 2022/024), under which only the lowest modulus is ever encrypted.
pub const EPHEMERAL_WEIGHT: u32 = 32;

/// `(log2 N, published, kept)` for a secret of [`EPHEMERAL_WEIGHT`] non-zero coefficients.
const EPHEMERAL_TABLE: [(u32, f64, f64); 4] =
    [(13, 37.0, 36.0), (14, 77.0, 75.0), (15, 164.0, 160.0), (16, 349.0, 340.0)];

/// The largest `log2(QP)` under a ternary secret of [`EPHEMERAL_WEIGHT`] non-zero coefficients: 128-bit classical security by
/// the sparse-key estimates that include the hybrid attacks of eprint 2026/279, with slack. `None` for degrees outside the table.
pub fn max_ephemeral_log_qp(log_n: u32) -> Option<f64> {
    // A ring above the table is at least as hard as the largest in it.
    let log_n = log_n.min(16);
    EPHEMERAL_TABLE.iter().find(|&&(degree, _, _)| degree == log_n).map(|&(_, _, kept)| kept)
}

/// Estimated security in bits: near the 128-bit boundary it falls in inverse proportion to `log2(QP)`.
/// `None` for degrees outside the table.
pub fn estimated_bits(log_n: u32, log_qp: f64) -> Option<f64> {
    bound(log_n).map(|bound| 128.0 * bound.published / log_qp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bounds_stay_below_the_published_ones_and_double_with_the_degree() {
        for log_n in 12..=17 {
            let (kept, published) = (max_log_qp(log_n).unwrap(), published_max_log_qp(log_n).unwrap());
            assert!(kept < published && kept > 0.96 * published);
            assert!(estimated_bits(log_n, kept).unwrap() > 128.0);
            if log_n > 12 {
                assert!(kept > 1.95 * max_log_qp(log_n - 1).unwrap());
            }
        }
        for (log_n, published, kept) in EPHEMERAL_TABLE {
            assert!(kept < published && max_ephemeral_log_qp(log_n) == Some(kept));
            assert!(published < max_log_qp(log_n).unwrap(), "a sparse secret is easier to find");
        }
        assert_eq!((max_ephemeral_log_qp(17), max_ephemeral_log_qp(12)), (Some(340.0), None));
        assert_eq!(max_log_qp(11), None);
        assert_eq!(max_log_qp(18), None);
    }
}
