use super::*;

const PRIMES: [u64; 6] =
    [1_125_899_902_124_033, 562_949_950_537_729, 35_184_365_273_089, 1_073_479_681, 1_032_193, 12289];
const N: usize = 128;

struct Source(u64);

impl Source {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (self.0 >> 32)
    }

    /// Random residues below `bound`, with the edges 0, 1, bound - 1 among them.
    fn limb(&mut self, bound: u64, n: usize) -> Vec<u64> {
        (0..n)
            .map(|_| match self.word() % 8 {
                0 => 0,
                1 => bound - 1,
                2 => 1,
                _ => self.word() % bound,
            })
            .collect()
    }
}

/// Runs `operation` on every path and prime and compares with the scalar path.
fn every_path_agrees<T: PartialEq + std::fmt::Debug>(
    mut operation: impl FnMut(Kernels, &Modulus, &mut Source) -> T,
) {
    for prime in PRIMES {
        let q = Modulus::new(prime).expect("odd");
        for seed in 0..8 {
            let reference = operation(Kernels::scalar(), &q, &mut Source(seed));
            for kernels in Kernels::available() {
                let result = operation(kernels, &q, &mut Source(seed));
                assert_eq!(result, reference, "{kernels:?} modulo {prime}, seed {seed}");
            }
        }
    }
}

#[test]
fn sums_products_and_scalars() {
    every_path_agrees(|kernels, q, source| {
        let (a, b) = (source.limb(q.value(), N), source.limb(q.value(), N));
        let w = q.factor(source.word());
        let mut results = vec![a.clone(); 9];
        kernels.add_assign(q, &mut results[0], &b);
        kernels.sub_assign(q, &mut results[1], &b);
        kernels.neg_assign(q, &mut results[2]);
        kernels.mul_assign(q, &mut results[3], &b);
        kernels.mul_scalar_assign(q, &mut results[4], w);
        kernels.sub_mul_scalar_assign(q, &mut results[5], &b, w);
        kernels.mul_add_assign(q, &mut results[6], &a, &b);
        kernels.mul(q, &mut results[7], &a, &b);
        kernels.mul_scalar_add_assign(q, &mut results[8], &b, w);
        results
    });
}

#[test]
fn mirrored_words() {
    for n in [1, 2, 8, 16, 32, 64, 256] {
        every_path_agrees(|kernels, q, source| {
            let mut a = source.limb(q.value(), n);
            kernels.sub_mirrored_times(q, &mut a, q.factor(source.word()));
            a
        });
    }
}

#[test]
fn scalar_factors_of_words_above_the_modulus() {
    every_path_agrees(|kernels, q, source| {
        let mut a = source.limb(1 << 50, N);
        kernels.mul_scalar_assign(q, &mut a, q.factor(q.value() - 1));
        a
    });
}

#[test]
fn lazy_dot_products_of_any_length() {
    for count in [1, 2, 14, 15, 16, 40] {
        every_path_agrees(|kernels, q, source| {
            let x: Vec<_> = (0..2 * count).map(|_| source.limb(q.value(), N)).collect();
            let terms: Vec<_> = x.chunks(2).map(|pair| (&pair[0][..], &pair[1][..])).collect();
            let mut out = source.limb(q.value(), N);
            kernels.dot_add(q, &mut out, &terms);
            out
        });
    }
}

#[test]
fn lazy_sums_of_the_largest_residues() {
    let q = Modulus::new(PRIMES[0]).expect("odd");
    let top = vec![q.value() - 1; N];
    for kernels in Kernels::available() {
        let mut out = top.clone();
        kernels.dot_add(&q, &mut out, &[(&top[..], &top[..]); 100]);
        assert_eq!(out, vec![99; N], "{kernels:?}: 100 * (-1)^2 - 1");
    }
}

#[test]
fn key_products_with_automorphism() {
    for (count, element) in [(1, 1), (3, 5), (4, 255), (17, 125)] {
        let permutation = Automorphism::new(N, element);
        every_path_agrees(|kernels, q, source| {
            let x: Vec<_> = (0..3 * count).map(|_| source.limb(q.value(), N)).collect();
            let terms: Vec<_> = x.chunks(3).map(|t| KeyTerm { digit: &t[0], b: &t[1], a: &t[2] }).collect();
            let (mut b, mut a) = (vec![7; N], vec![9; N]);
            kernels.key_dot(q, [&mut b, &mut a], &terms, &permutation);
            (b, a)
        });
    }
}

#[test]
fn plaintext_products_with_runs() {
    for runs in [vec![1], vec![2, 4, 1], vec![4], vec![8, 1, 16], vec![64, 128], [1, 8].repeat(12)] {
        every_path_agrees(|kernels, q, source| {
            let limbs: Vec<_> =
                runs.iter().map(|run| [N, N, N / run].map(|n| source.limb(q.value(), n))).collect();
            let terms: Vec<_> = limbs.iter().map(|[x0, x1, weights]| PlainTerm { x0, x1, weights }).collect();
            let (mut acc_0, mut acc_1) = (source.limb(q.value(), N), source.limb(q.value(), N));
            kernels.plain_dot_add(q, [&mut acc_0, &mut acc_1], &terms);
            (acc_0, acc_1)
        });
    }
}

#[test]
fn base_conversion_steps() {
    for (count, outputs) in [(1, 1), (2, 4), (9, 6), (15, 3), (16, 5), (33, 4)] {
        let primes: Vec<_> = PRIMES.map(|q| Modulus::new(q).expect("odd")).into();
        for n in [N, 16, 40] {
            every_path_agrees(|kernels, _, source| {
                let inputs: Vec<_> = (0..count).map(|_| source.limb(1 << 50, n)).collect();
                let views: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
                let mut outs = vec![vec![0; n]; outputs];
                let constants: Vec<_> = primes.iter().map(|q| source.limb(q.value(), count)).collect();
                let mut targets: Vec<_> = (primes.iter().zip(&constants).zip(&mut outs))
                    .map(|((q, constants), out)| CombineTarget { q, constants, out })
                    .collect();
                kernels.combine(&mut targets, &views);
                let reciprocals: Vec<_> =
                    (0..count).map(|i| 1.0 / ((1u64 << 50) - 27 * i as u64) as f64).collect();
                let mut quotients = vec![0; n];
                kernels.quotients(&mut quotients, &views, &reciprocals);
                (outs, quotients)
            });
        }
    }
}

#[test]
fn residues_of_signed_numbers_and_of_other_primes() {
    every_path_agrees(|kernels, q, source| {
        let mut wide: Vec<i64> = (0..N).map(|_| source.word() as i64).collect();
        wide[..6].copy_from_slice(&[0, -1, i64::MAX, i64::MIN, q.value() as i64, -(q.value() as i64)]);
        let mut narrow: Vec<i32> = (0..N).map(|_| source.word() as i32).collect();
        narrow[..4].copy_from_slice(&[0, -1, i32::MAX, i32::MIN]);
        let mut results = vec![vec![0; N]; 2 + PRIMES.len()];
        kernels.from_i64(q, &mut results[0], &wide);
        kernels.from_i32(q, &mut results[1], &narrow);
        for (out, prime) in results[2..].iter_mut().zip(PRIMES) {
            let from = Modulus::new(prime).expect("odd");
            let mut x = source.limb(prime, N);
            x[..2].copy_from_slice(&[prime / 2, prime / 2 + 1]);
            kernels.recenter(q, out, &x, &from);
        }
        results
    });
}

#[test]
fn permutations() {
    for element in [1, 3, 5, 2 * N as u32 - 1] {
        let permutation = Automorphism::new(N, element);
        every_path_agrees(|kernels, q, source| {
            let x = source.limb(q.value(), N);
            let (mut out, mut sum) = (vec![0; N], source.limb(q.value(), N));
            kernels.permute(&mut out, &x, &permutation);
            kernels.permute_add(q, &mut sum, &x, &permutation);
            (out, sum)
        });
    }
}

#[test]
fn the_smallest_ring_and_uneven_lengths_work() {
    every_path_agrees(|kernels, q, source| {
        [1, 3, 16, 37].map(|n| {
            let (a, b) = (source.limb(q.value(), n), source.limb(q.value(), n));
            let mut out = source.limb(q.value(), n);
            kernels.mul_add_assign(q, &mut out, &a, &b);
            kernels.sub_assign(q, &mut out, &b);
            out
        })
    });
}
