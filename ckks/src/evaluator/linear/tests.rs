//! Linear transforms against dense products in the clear, and bit equality of the kernel paths.

use std::sync::Arc;

use super::apply::Transform;
use super::batching::Portions;
use super::*;
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::cost::{Ending, LinearWork, Shape};
use crate::encoder::{Complex, Encoder};
use crate::encrypt::{decrypt, encrypt_secret};
use crate::evaluator::Evaluator;
use crate::kernels::Kernels;
use crate::keys::{EvalKeys, KeyGenerator, SecretKey};
use crate::params::{ParamsLiteral, PrimeSpec};
use crate::units::{Level, Rotation, Scale, Slots};

const LOG_N: u32 = 7;
const SLOTS: usize = 1 << (LOG_N - 1);
/// Absolute precision asserted for values of magnitude about 1, in bits.
const MIN_BITS: i32 = 18;

struct Source(u64);

impl Source {
    fn values(&mut self, count: usize) -> Vec<f64> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}

struct World {
    ctx: Context,
    encoder: Encoder,
    evaluator: Evaluator,
    generator: KeyGenerator,
    secret: SecretKey,
}

fn world(kernels: Kernels) -> World {
    let literal = ParamsLiteral {
        log_n: LOG_N,
        q: [50, 40, 40, 40, 40].map(PrimeSpec::Bits).to_vec(),
        p: vec![PrimeSpec::Bits(50); 2],
    };
    let ctx =
        Context::with_kernels(&literal.check_insecure_for_tests().expect("valid"), kernels).expect("valid");
    let generator = KeyGenerator::insecure_deterministic_for_tests(&ctx, [3; 32]);
    let secret = generator.secret();
    World { encoder: Encoder::new(&ctx), evaluator: Evaluator::new(&ctx), generator, secret, ctx }
}

fn slots(count: usize) -> Slots {
    Slots::new(count as u32).expect("power of two")
}

fn rotation(steps: usize) -> Rotation {
    Rotation::new(steps as i64, slots(SLOTS))
}

/// Diagonals in the clear and encoded.
struct Diagonals {
    values: Vec<Vec<f64>>,
    encoded: Vec<Arc<IntPlaintext>>,
}

impl Diagonals {
    fn new(world: &World, values: Vec<Vec<f64>>) -> Self {
        let encode = |v: &Vec<f64>| world.encoder.encode(v, slots(v.len()), &Scale::pow2(30));
        let encoded = values.iter().map(|v| Arc::new(encode(v).expect("small values"))).collect();
        Self { values, encoded }
    }
}

impl DiagonalSource for Diagonals {
    fn diagonal(&self, id: DiagonalId) -> Result<Arc<IntPlaintext>, Error> {
        self.encoded.get(id.0 as usize).cloned().ok_or_else(|| Error::Source {
            what: format!("diagonal {}", id.0),
            source: "not in the table".into(),
        })
    }
}

impl World {
    fn encrypt(&self, values: &[f64], level: Level) -> Ciphertext {
        let plaintext =
            self.encoder.encode(values, slots(values.len()), &Scale::pow2(40)).expect("small values");
        let seeded = encrypt_secret(&self.ctx, &self.secret, &plaintext, level).expect("valid level");
        seeded.expand(&self.ctx).expect("own ciphertext")
    }

    fn decrypt(&self, ct: &Ciphertext) -> Vec<f64> {
        let poly = decrypt(&self.ctx, &self.secret, ct).expect("own ciphertext");
        self.encoder.decode(&poly, ct.scale(), slots(SLOTS)).expect("full slots")
    }

    fn keys(&self, plan: &LinearPlan, level: Level) -> EvalKeys {
        let wanted: Vec<_> = plan.galois_elements(self.ctx.n()).into_iter().map(|g| (g, level)).collect();
        self.generator.galois_set(&self.secret, &wanted).expect("valid").into_iter().collect()
    }
}

/// The plan on full slot vectors, by its definition.
fn in_the_clear(plan: &LinearPlan, inputs: &[Vec<f64>], diagonals: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let rotate = |x: &[f64], r: Rotation| -> Vec<f64> {
        (0..SLOTS).map(|i| x[(i + r.get() as usize) % x.len()]).collect()
    };
    let turned = plan.turned.iter().map(|turn| rotate(&inputs[turn.input as usize], turn.rotation));
    let inputs: Vec<Vec<f64>> = inputs.iter().cloned().chain(turned).collect();
    let mut outputs = vec![vec![0.0; SLOTS]; plan.outputs as usize];
    for stage in &plan.stages {
        let mut running = vec![vec![0.0; SLOTS]; plan.outputs as usize];
        for giant in &stage.giants {
            let mut sum = vec![0.0; SLOTS];
            for term in &giant.terms {
                let baby = rotate(&inputs[term.input as usize], plan.baby(term).expect("in the plan"));
                let diagonal = &diagonals[term.diagonal.0 as usize];
                for (i, sum) in sum.iter_mut().enumerate() {
                    *sum += baby[i] * diagonal[i % diagonal.len()];
                }
            }
            let (target, rotated) = match stage.order {
                GiantOrder::Separate => (&mut outputs[giant.output as usize], rotate(&sum, giant.rotation)),
                GiantOrder::Chained => {
                    let running = &mut running[giant.output as usize];
                    running.iter_mut().zip(&sum).for_each(|(x, y)| *x += y);
                    *running = rotate(running, giant.rotation);
                    continue;
                }
            };
            target.iter_mut().zip(rotated).for_each(|(x, y)| *x += y);
        }
        for (output, running) in outputs.iter_mut().zip(&running) {
            output.iter_mut().zip(running).for_each(|(x, y)| *x += y);
        }
        for output in &mut outputs {
            for &r in &stage.fold {
                let turned = rotate(output, r);
                output.iter_mut().zip(turned).for_each(|(x, y)| *x += y);
            }
        }
    }
    outputs
}

fn assert_close(got: &[f64], expected: &[f64], what: &str) {
    for (i, (got, expected)) in got.iter().zip(expected.iter().cycle()).enumerate() {
        let error = (got - expected).abs();
        assert!(error < 2f64.powi(-MIN_BITS), "{what}: slot {i} is {got}, not {expected}");
    }
}

/// A dense `p x p` matrix for each `(output, input)` as one baby-step giant-step stage.
fn dense(matrices: &[Vec<Vec<Vec<f64>>>], babies: usize) -> (LinearPlan, Vec<Vec<f64>>) {
    let (outputs, inputs) = (matrices.len(), matrices[0].len());
    let period = matrices[0][0].len();
    let mut stage = Stage::default();
    let mut diagonals = Vec::new();
    for (output, row) in matrices.iter().enumerate() {
        for giant in (0..period).step_by(babies) {
            let mut terms = Vec::new();
            for (input, matrix) in row.iter().enumerate() {
                for baby in 0..babies.min(period - giant) {
                    // Diagonal baby + giant, turned back by the giant step.
                    let place = |i: usize| (i + period - giant) % period;
                    let entry = |i: usize| matrix[place(i)][(place(i) + giant + baby) % period];
                    let diagonal = DiagonalId(diagonals.len() as u32);
                    diagonals.push((0..period).map(entry).collect());
                    terms.push(Term { input: input as u32, baby: baby as u32, diagonal });
                }
            }
            stage.giants.push(GiantStep { output: output as u32, rotation: rotation(giant), terms });
        }
    }
    let table = vec![(0..babies).map(rotation).collect(); inputs];
    let plan = LinearPlan {
        inputs: inputs as u32,
        outputs: outputs as u32,
        babies: table,
        stages: vec![stage],
        ..LinearPlan::default()
    };
    (plan, diagonals)
}

fn matrix(source: &mut Source, period: usize) -> Vec<Vec<f64>> {
    let scale = 1.0 / (period as f64).sqrt();
    (0..period).map(|_| source.values(period).iter().map(|x| x * scale).collect()).collect()
}

/// `zeta^(5^slot power)`, what `X^power` is in a slot.
fn phase(slot: usize, power: u32) -> Complex {
    let order = 4 * SLOTS as u64;
    let exponent = (0..slot).fold(1u64, |e, _| e * 5 % order) * u64::from(power) % order;
    let angle = std::f64::consts::TAU * exponent as f64 / order as f64;
    Complex { re: angle.cos(), im: angle.sin() }
}

#[test]
fn joined_operands_meet_complex_diagonals() {
    let world = world(Kernels::detect());
    let mut source = Source(41);
    let (first, second) = (source.values(SLOTS), source.values(SLOTS));
    let diagonal: Vec<Complex> =
        source.values(SLOTS).iter().zip(source.values(SLOTS)).map(|(&re, im)| Complex { re, im }).collect();
    for power in [0, 5, SLOTS as u32, 3 * SLOTS as u32 + 7] {
        let (by, baby, giant) = (3, 2, 7);
        // 2: first + X^power rotate(second), 3: that plus itself times the imaginary unit.
        let plan = LinearPlan {
            inputs: 2,
            outputs: 1,
            joined: vec![
                Join { first: 0, second: 1, rotation: rotation(by), power },
                Join { first: 2, second: 2, rotation: Rotation::ZERO, power: SLOTS as u32 },
            ],
            babies: vec![vec![], vec![], vec![], vec![rotation(baby)]],
            stages: vec![Stage {
                giants: vec![GiantStep {
                    output: 0,
                    rotation: rotation(giant),
                    terms: vec![Term { input: 3, baby: 0, diagonal: DiagonalId(0) }],
                }],
                ..Stage::default()
            }],
            close: Close::AddConjugate,
            ..LinearPlan::default()
        };
        let counts = plan.counts();
        assert_eq!((counts.turns, counts.rotations(), counts.products), (1, 4, 1));
        assert_eq!(plan.source(3), (0, 2));
        let encoded = world.encoder.encode_complex(&diagonal, slots(SLOTS), &Scale::pow2(30)).expect("small");
        let diagonals = Diagonals { values: vec![], encoded: vec![Arc::new(encoded)] };
        let level = Level(3);
        let inputs = [world.encrypt(&first, level), world.encrypt(&second, level)];
        let keys = world.keys(&plan, level);
        let inputs = [&inputs[0], &inputs[1]];
        let found = apply(&world.evaluator, &inputs, &plan, &diagonals, &keys).expect("a good plan");
        let joined = |slot: usize| {
            let rotated = phase(slot, power).scale(second[(slot + by) % SLOTS]);
            Complex { re: first[slot], im: 0.0 }.add(rotated).mul(Complex { re: 1.0, im: 1.0 })
        };
        let product = |slot: usize| diagonal[slot].mul(joined((slot + baby) % SLOTS));
        let expected: Vec<f64> = (0..SLOTS).map(|slot| 2.0 * product((slot + giant) % SLOTS).re).collect();
        assert_close(&world.decrypt(&found[0]), &expected, &format!("power {power}"));
    }
}

#[test]
fn dense_matrices_of_every_period() {
    let world = world(Kernels::detect());
    for (period, babies, inputs, outputs) in [
        (1, 1, 1, 1),
        (2, 2, 1, 1),
        (4, 2, 2, 1),
        (8, 4, 1, 2),
        (16, 5, 2, 2),
        (SLOTS / 2, 8, 1, 1),
        (SLOTS, 16, 1, 1),
    ] {
        let mut source = Source(period as u64);
        let matrices: Vec<Vec<_>> =
            (0..outputs).map(|_| (0..inputs).map(|_| matrix(&mut source, period)).collect()).collect();
        let vectors: Vec<Vec<f64>> = (0..inputs).map(|_| source.values(period)).collect();
        let (plan, diagonals) = dense(&matrices, babies);
        let level = Level(3);
        let cts: Vec<_> = vectors.iter().map(|v| world.encrypt(v, level)).collect();
        let keys = world.keys(&plan, Level(4));
        let source = Diagonals::new(&world, diagonals);
        let results =
            apply(&world.evaluator, &cts.iter().collect::<Vec<_>>(), &plan, &source, &keys).expect("valid");
        for (result, row) in results.iter().zip(&matrices) {
            let mut expected = vec![0.0; period];
            for (matrix, x) in row.iter().zip(&vectors) {
                for (out, line) in expected.iter_mut().zip(matrix) {
                    *out += line.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
                }
            }
            assert_eq!((result.level(), result.scale()), (level, &Scale::pow2(70)));
            assert_close(&world.decrypt(result), &expected, &format!("period {period}"));
        }
    }
}

/// Two inputs, two outputs, two stages with folds, giants with and without rotation, mixed periods.
fn staged(source: &mut Source) -> (LinearPlan, Vec<Vec<f64>>) {
    let term = |input, baby, diagonal| Term { input, baby, diagonal: DiagonalId(diagonal) };
    let giant = |output, steps, terms| GiantStep { output, rotation: rotation(steps), terms };
    let first = Stage {
        giants: vec![
            giant(0, 0, vec![term(0, 0, 0), term(1, 2, 1)]),
            giant(0, 5, vec![term(0, 1, 2), term(0, 1, 3), term(1, 0, 0)]),
            giant(0, 7, (0..12).map(|k| term(k % 2, k % 3, k % 4)).collect()),
        ],
        order: GiantOrder::Separate,
        fold: vec![rotation(16), rotation(8)],
    };
    let second = Stage {
        giants: vec![giant(1, 3, vec![term(1, 1, 1)]), giant(0, 0, vec![term(1, 1, 3)])],
        order: GiantOrder::Separate,
        fold: vec![rotation(32), rotation(0)],
    };
    let babies =
        vec![vec![rotation(0), rotation(1), rotation(17)], vec![rotation(4), rotation(0), rotation(63)]];
    let plan =
        LinearPlan { inputs: 2, outputs: 2, babies, stages: vec![first, second], ..LinearPlan::default() };
    let diagonals =
        [SLOTS, 4, SLOTS / 4, 1].map(|period| source.values(period).iter().map(|x| x / 8.0).collect());
    (plan, diagonals.to_vec())
}

#[test]
fn stages_and_folds_follow_the_definition() {
    let world = world(Kernels::detect());
    let mut source = Source(77);
    let (plan, diagonals) = staged(&mut source);
    let vectors = vec![source.values(SLOTS), source.values(SLOTS)];
    let cts: Vec<_> = vectors.iter().map(|v| world.encrypt(v, Level(2))).collect();
    let keys = world.keys(&plan, Level(2));
    let source = Diagonals::new(&world, diagonals);
    let results = apply(&world.evaluator, &[&cts[0], &cts[1]], &plan, &source, &keys).expect("valid");
    for (result, expected) in results.iter().zip(in_the_clear(&plan, &vectors, &source.values)) {
        assert_close(&world.decrypt(result), &expected, "staged");
    }
    let counts = plan.counts();
    assert_eq!((counts.decompositions, counts.baby_rotations), (2, 4));
    assert_eq!((counts.giant_rotations, counts.fold_rotations), (3, 6));
    assert_eq!((counts.products, counts.outputs, counts.rotations()), (19, 2, 13));
    assert_eq!(counts.ntts(Level(3), 2), 6 * (2 * 2 + 9 * 3 + 4));
    assert_eq!(counts.diagonal_ntts(Level(3), 2), 19 * 6);
}

/// The same with chained giants, one of them without products, and a turned input.
fn chained(source: &mut Source) -> (LinearPlan, Vec<Vec<f64>>) {
    let (mut plan, diagonals) = staged(source);
    plan.turned = vec![Turn { input: 1, rotation: rotation(9) }];
    plan.babies.push(vec![rotation(0), rotation(17)]);
    let [first, second] = &mut plan.stages[..] else { unreachable!("two stages") };
    first.giants[1].terms.push(Term { input: 2, baby: 1, diagonal: DiagonalId(1) });
    first.giants.insert(2, GiantStep { output: 0, rotation: rotation(5), terms: vec![] });
    (first.order, second.order) = (GiantOrder::Chained, GiantOrder::Chained);
    (plan, diagonals)
}

#[test]
fn chains_and_turned_inputs_follow_the_definition() {
    let world = world(Kernels::detect());
    let mut source = Source(78);
    let (plan, diagonals) = chained(&mut source);
    let vectors = vec![source.values(SLOTS), source.values(SLOTS)];
    let cts: Vec<_> = vectors.iter().map(|v| world.encrypt(v, Level(2))).collect();
    let keys = world.keys(&plan, Level(2));
    let source = Diagonals::new(&world, diagonals);
    let results = apply(&world.evaluator, &[&cts[0], &cts[1]], &plan, &source, &keys).expect("valid");
    for (result, expected) in results.iter().zip(in_the_clear(&plan, &vectors, &source.values)) {
        assert_close(&world.decrypt(result), &expected, "chained");
    }
    let counts = plan.counts();
    assert_eq!((counts.turns, counts.decompositions, counts.baby_rotations), (1, 3, 5));
    assert_eq!((counts.giant_rotations, counts.fold_rotations), (4, 6));
}

#[test]
fn portions_do_not_change_a_bit() {
    let world = world(Kernels::detect());
    let mut source = Source(11);
    let matrices: Vec<_> = (0..2).map(|_| (0..3).map(|_| matrix(&mut source, 16)).collect()).collect();
    let (plan, values) = dense(&matrices, 4);
    let diagonals = Diagonals::new(&world, values);
    let level = Level(4);
    let inputs: Vec<_> = (0..3).map(|_| world.encrypt(&source.values(16), level)).collect();
    let inputs: Vec<&Ciphertext> = inputs.iter().collect();
    let keys = world.keys(&plan, level);
    let params = world.ctx.params();
    let whole = Batching::of(&plan, params, level);
    let limb = 8 * params.n() as u64;
    let small = Portions { giants: 2 * 7 * limb, most_giants: 4 * 7 * limb, batch: 1 };
    let parts = Batching::within(small, &plan, params, level);
    assert_eq!((whole.inputs.len(), parts.inputs.len()), (1, 3));
    assert!(parts.giants < whole.giants && parts.bytes() < whole.bytes());
    let run = |batching: &Batching| {
        let transform =
            Transform::new(&world.ctx, &inputs, &plan, &keys, level).expect("keys and levels fit");
        let (sums, scale) = transform.run(&diagonals, batching).expect("diagonals are there");
        let limbs: Vec<Vec<u64>> = sums
            .iter()
            .flat_map(|sum| (0..7).flat_map(|m| [sum.c0.limb(m).to_vec(), sum.c1.limb(m).to_vec()]))
            .collect();
        (limbs, scale)
    };
    assert_eq!(run(&whole), run(&parts));
}

#[test]
fn a_rescaled_transform_is_one_level_lower() {
    let world = world(Kernels::detect());
    let mut source = Source(78);
    let (plan, diagonals) = staged(&mut source);
    let vectors = vec![source.values(SLOTS), source.values(SLOTS)];
    let keys = world.keys(&plan, Level(2));
    let source = Diagonals::new(&world, diagonals);
    let run = |level: Level| {
        let cts: Vec<_> = vectors.iter().map(|v| world.encrypt(v, level)).collect();
        apply_rescaled(&world.evaluator, &[&cts[0], &cts[1]], &plan, &source, &keys)
    };
    let results = run(Level(2)).expect("valid");
    for (result, expected) in results.iter().zip(in_the_clear(&plan, &vectors, &source.values)) {
        assert_eq!((result.level(), result.scale()), (Level(1), &Scale::pow2(70).div(&Scale::prime(2))));
        assert_close(&world.decrypt(result), &expected, "rescaled");
    }
    assert!(matches!(run(Level(0)), Err(Error::NoLevelLeft { .. })));
}

#[test]
fn every_kernel_path_gives_the_same_bits() {
    let reference = world(Kernels::scalar());
    let (plan, diagonals) = staged(&mut Source(5));
    let cts = [
        reference.encrypt(&Source(6).values(SLOTS), Level(4)),
        reference.encrypt(&Source(7).values(8), Level(4)),
    ];
    let keys = reference.keys(&plan, Level(4));
    let source = Diagonals::new(&reference, diagonals);
    let run = |world: &World| {
        let inputs = [&cts[0], &cts[1]];
        let transformed = apply(&world.evaluator, &inputs, &plan, &source, &keys).expect("valid");
        let rescaled = apply_rescaled(&world.evaluator, &inputs, &plan, &source, &keys).expect("valid");
        let rotated = world.evaluator.rotate(&transformed[0], rotation(5), &keys).expect("has the key");
        (transformed, rescaled, rotated)
    };
    let expected = run(&reference);
    for kernels in Kernels::available() {
        assert!(run(&world(kernels)) == expected, "{kernels:?}");
    }
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let (good, _) = staged(&mut Source(1));
    assert_eq!(good.check(), Ok(()));
    let broken = |change: fn(&mut LinearPlan)| {
        let mut plan = good.clone();
        change(&mut plan);
        plan.check().expect_err("broken")
    };
    assert!(matches!(broken(|p| p.outputs = 0), PlanError::Empty { .. }));
    assert!(matches!(broken(|p| p.inputs = 3), PlanError::BabyTable { listed: 2, inputs: 3 }));
    assert!(matches!(broken(|p| p.outputs = 3), PlanError::UnusedOutput { output: 2 }));
    assert!(matches!(broken(|p| p.stages[1].giants[0].output = 9), PlanError::NoSuchOutput { stage: 1, .. }));
    assert!(matches!(broken(|p| p.stages[0].giants[1].terms.clear()), PlanError::NoTerms { giant: 1, .. }));
    assert!(matches!(
        broken(|p| {
            p.turned.push(Turn { input: 2, rotation: rotation(1) });
            p.babies.push(vec![]);
        }),
        PlanError::NoSuchTurn { turn: 0, input: 2, inputs: 2 }
    ));
    assert!(matches!(
        broken(|p| {
            p.joined.push(Join { first: 0, second: 2, rotation: rotation(1), power: 0 });
            p.babies.push(vec![]);
        }),
        PlanError::NoSuchJoin { join: 0, operand: 2, operands: 2 }
    ));
    assert!(matches!(
        broken(|p| p.stages[0].giants[0].terms[0].input = 2),
        PlanError::NoSuchInput { input: 2, .. }
    ));
    assert!(matches!(
        broken(|p| p.stages[0].giants[0].terms[0].baby = 3),
        PlanError::NoSuchBaby { baby: 3, babies: 3, .. }
    ));
}

#[test]
fn unfit_inputs_keys_and_diagonals_are_refused() {
    let world = world(Kernels::detect());
    let (plan, diagonals) = dense(&[vec![matrix(&mut Source(1), 4)]], 2);
    let source = Diagonals::new(&world, diagonals);
    let keys = world.keys(&plan, Level(2));
    let (low, high) = (world.encrypt(&[1.0; 4], Level(2)), world.encrypt(&[1.0; 4], Level(3)));
    let run = |inputs: &[&Ciphertext], plan: &LinearPlan, source: &Diagonals, keys: &EvalKeys| {
        apply(&world.evaluator, inputs, plan, source, keys)
    };
    assert!(run(&[&low], &plan, &source, &keys).is_ok());
    let count = run(&[&low, &low], &plan, &source, &keys);
    assert!(matches!(count, Err(Error::Plan(PlanError::InputCount { found: 2, expected: 1 }))));
    assert!(matches!(run(&[&high], &plan, &source, &keys), Err(Error::MissingKey { .. })));
    assert!(matches!(run(&[&low], &plan, &source, &EvalKeys::new()), Err(Error::MissingKey { .. })));
    let mut two = plan.clone();
    (two.inputs, two.babies) = (2, vec![plan.babies[0].clone(); 2]);
    assert!(matches!(run(&[&low, &high], &two, &source, &keys), Err(Error::LevelMismatch { .. })));
    let mut odd = Diagonals::new(&world, source.values.clone());
    let encoded = world.encoder.encode(&[1.0; 4], slots(4), &Scale::pow2(29)).expect("valid");
    odd.encoded[1] = Arc::new(encoded);
    assert!(matches!(run(&[&low], &plan, &odd, &keys), Err(Error::ScaleMismatch { .. })));
    odd.encoded.truncate(1);
    assert!(matches!(run(&[&low], &plan, &odd, &keys), Err(Error::Source { .. })));
}

#[test]
fn the_work_counted_is_the_work_foreseen() {
    let world = world(Kernels::detect());
    let mut source = Source(79);
    let (mut plan, diagonals) = staged(&mut source);
    // Folds touch only outputs that have a value: then the counts are exact.
    plan.stages[0].fold.clear();
    let level = Level(3);
    let cts = [world.encrypt(&source.values(SLOTS), level), world.encrypt(&source.values(8), level)];
    let keys = world.keys(&plan, level);
    let source = Diagonals::new(&world, diagonals);
    let (ev, ctx) = (&world.evaluator, &world.ctx);
    let counted = |run: &dyn Fn()| {
        let before = ctx.work();
        run();
        ctx.work() - before
    };
    let work = plan.work(|id| {
        let diagonal = &source.encoded[id.0 as usize];
        (diagonal.period(), diagonal.form())
    });
    let shape = Shape::new(ctx.params(), level);
    let inputs = [&cts[0], &cts[1]];
    let transform = counted(&|| drop(apply(ev, &inputs, &plan, &source, &keys).expect("valid")));
    assert_eq!(transform, shape.linear(&work, Ending::ModDown));
    let rescaled = counted(&|| drop(apply_rescaled(ev, &inputs, &plan, &source, &keys).expect("valid")));
    assert_eq!(rescaled, shape.linear(&work, Ending::ModDownRescale));
    let diagonals = LinearWork { diagonal_butterflies: work.diagonal_butterflies, ..LinearWork::default() };
    let whole = transform - shape.linear(&diagonals, Ending::ModDown);
    assert_eq!(whole.transforms_of(ctx.n()), plan.counts().ntts(level, 2) as f64);
    let rotation = counted(&|| drop(ev.rotate(&cts[0], rotation(5), &keys).expect("has the key")));
    assert_eq!(rotation, shape.rotation());
    let rescale = counted(&|| drop(ev.rescale(&cts[0]).expect("a level")));
    assert_eq!(rescale, shape.rescale());
}
