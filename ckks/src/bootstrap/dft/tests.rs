use super::*;

fn slots(count: usize) -> Slots {
    Slots::new(count as u32).expect("power of two")
}

fn vector(p: usize) -> Vec<Complex> {
    let value = |k: usize| ((k * k * 7 + 3 * k) % 23) as f64 / 11.0 - 1.0;
    (0..p).map(|k| Complex { re: value(k), im: value(k + 5) }).collect()
}

/// Executes the plan of a factor on a vector of the ring's slots that repeats.
fn run(factor: &Factor, z: &[Complex]) -> Vec<Complex> {
    let p = z.len();
    let mut out = vec![Complex::default(); p];
    for giant in &factor.plan.stages[0].giants {
        let turn = giant.rotation.get() as usize;
        for term in &giant.terms {
            let baby = factor.plan.baby(term).expect("in the plan").get() as usize;
            let diagonal = &factor.diagonals[term.diagonal.0 as usize];
            for (i, out) in out.iter_mut().enumerate() {
                let at = (i + turn) % p;
                *out = out.add(diagonal[at].mul(z[(at + baby) % p]));
            }
        }
    }
    out
}

fn assert_close(found: &[Complex], expected: &[Complex], what: &str) {
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!((x.re - y.re).abs() + (x.im - y.im).abs() < 1e-11, "{what}: slot {i} is {x:?}, not {y:?}");
    }
}

fn groupings(log: u32) -> Vec<Vec<u32>> {
    let mut all = vec![vec![log]];
    if log > 1 {
        all.extend([vec![1; log as usize], vec![log / 2, log - log / 2], vec![log - 1, 1]]);
    }
    if log > 3 {
        all.push(vec![2, log - 3, 1]);
    }
    all
}

/// The FFT of bit-reversed input is the product of the stages.
#[test]
fn factors_multiply_to_the_transform_and_its_inverse() {
    for log in 1..=9 {
        let p = 1usize << log;
        let z = vector(p);
        let reversed = |i: usize| i.reverse_bits() >> (usize::BITS - log);
        let mut expected: Vec<Complex> = (0..p).map(|i| z[reversed(i)]).collect();
        SpecialFft::new(p).forward(&mut expected);
        for groups in groupings(log) {
            let factors = slots_to_coeffs(slots(p), &groups, slots(p));
            let transformed = factors.iter().fold(z.clone(), |z, factor| run(factor, &z));
            assert_close(&transformed, &expected, &format!("{p} slots, {groups:?}"));
            let back = coeffs_to_slots(slots(p), &groups, slots(p), 0.25);
            let quarter = back.iter().fold(transformed, |z, factor| run(factor, &z));
            let expected: Vec<Complex> = z.iter().map(|z| z.scale(0.25)).collect();
            assert_close(&quarter, &expected, &format!("{p} slots back, {groups:?}"));
        }
    }
}

#[test]
fn groups_have_few_diagonals_and_rotations() {
    let count = |factor: &Factor| (factor.diagonals.len(), factor.plan.counts().rotations());
    let p = slots(1 << 10);
    let forward = slots_to_coeffs(p, &[3, 3, 4], slots(1 << 12));
    assert_eq!(forward.iter().map(count).collect::<Vec<_>>(), [(15, 6), (15, 6), (16, 6)]);
    let inverse = coeffs_to_slots(p, &[4, 3, 3], slots(1 << 12), 1.0);
    assert_eq!(inverse.iter().map(count).collect::<Vec<_>>(), [(16, 6), (15, 6), (15, 6)]);
    let elements = |factors: &[Factor]| -> BTreeSet<_> {
        factors.iter().flat_map(|factor| factor.plan.galois_elements(1 << 13)).collect()
    };
    assert_eq!(elements(&forward), elements(&inverse), "both directions share their keys");
    assert!(inverse.iter().all(|factor| factor.plan.check().is_ok()));
}
