//! Whole bootstraps: precision, bit equality of the kernel paths, refusals.

use super::*;
use crate::encrypt::{decrypt, encrypt_secret};
use crate::kernels::Kernels;
use crate::keys::{KeyGenerator, SecretKey};
use crate::test_support::{precision_bits, random_slots};

/// A ring with bootstrapping, its keys and the secret.
struct World {
    ctx: Context,
    encoder: Encoder,
    sk: SecretKey,
    bootstrapper: Bootstrapper,
    keys: BootstrapKeys,
}

const SEED: [u8; 32] = [11; 32];

fn input_scale() -> Scale {
    Scale::pow2(40)
}

fn small_spec(log_n: u32) -> BootstrapSpec {
    BootstrapSpec {
        log_n,
        slots_to_coeffs: PrimeRun::new(2, 32),
        usable: vec![50; 2],
        coeffs_to_slots: PrimeRun::new(3, 46),
        special: PrimeRun::new(6, 50),
        ..BootstrapSpec::n16()
    }
}

impl World {
    fn new(params: &BootstrapParams, slots: u32, kernels: Kernels) -> World {
        let ctx = Context::with_kernels(params.main(), kernels).expect("checked");
        let slots = Slots::new(slots).expect("power of two");
        let bootstrapper = Bootstrapper::new(params, &ctx, slots, &input_scale()).expect("valid");
        let generator = KeyGenerator::insecure_deterministic_for_tests(&ctx, SEED);
        let sk = generator.secret();
        let keys = BootstrapKeys::generate(&generator, &sk, &bootstrapper).expect("own secret");
        World { encoder: Encoder::new(&ctx), ctx, sk, bootstrapper, keys }
    }

    fn small(spec: BootstrapSpec, slots: u32) -> World {
        World::new(&spec.check_insecure_for_tests().expect("valid"), slots, Kernels::detect())
    }

    fn slots(&self) -> Slots {
        self.bootstrapper.slots
    }

    fn encrypt(&self, values: &[f64], level: Level) -> Ciphertext {
        let plaintext = self.encoder.encode(values, self.slots(), &input_scale()).expect("small values");
        let seeded = encrypt_secret(&self.ctx, &self.sk, &plaintext, level).expect("valid level");
        seeded.expand(&self.ctx).expect("own ciphertext")
    }

    /// Worst slot, in bits. All slots of the ring are looked at.
    fn bits(&self, ct: &Ciphertext, expected: &[f64]) -> f64 {
        let max = self.ctx.params().max_slots();
        let message = decrypt(&self.ctx, &self.sk, ct).expect("own ciphertext");
        let found = self.encoder.decode(&message, ct.scale(), max).expect("full slots");
        let expected: Vec<f64> = expected.iter().copied().cycle().take(max.get() as usize).collect();
        precision_bits(&found, &expected)
    }

    /// Refreshes a pair and a single ciphertext and asserts level and precision of all three results.
    fn assert_refreshes(&self, seed: u64, bits: f64) {
        let count = self.slots().get() as usize;
        let (x, y) = (random_slots(count, seed), random_slots(count, seed + 100));
        let level = self.bootstrapper.params.input_level();
        let (a, b) = (self.encrypt(&x, Level(level.0 + 1)), self.encrypt(&y, level));
        let [real, imaginary] = self.bootstrapper.refresh_pair(&a, &b, &self.keys).expect("keys are there");
        let single = self.bootstrapper.refresh(&a, &self.keys).expect("keys are there");
        for (what, ct, expected) in
            [("real", &real, &x), ("imaginary", &imaginary, &y), ("single", &single, &x)]
        {
            assert_eq!(ct.level(), self.bootstrapper.params.output_level());
            let found = self.bits(ct, expected);
            assert!(found >= bits, "{what}, seed {seed}: {found:.2} bits, expected at least {bits}");
        }
        assert_eq!(real.scale(), single.scale());
        assert_eq!(*real.scale(), self.bootstrapper.params.spec().output_scale());
    }
}

#[test]
fn full_slots() {
    let world = World::small(small_spec(9), 256);
    (0..3).for_each(|seed| world.assert_refreshes(seed, 18.0));
}

/// Counted beforehand and as it is done, kernel by kernel.
#[test]
fn the_work_is_foreseen() {
    let spec = small_spec(9);
    let refined = EvalModSpec { degree: 63, double_angles: 2, arcsine: Arcsine::Degree5, ..spec.eval_mod };
    for (spec, slots) in
        [(spec.clone(), 256), (spec.clone(), 16), (BootstrapSpec { eval_mod: refined, ..spec }, 256)]
    {
        let world = World::small(spec, slots);
        let params = &world.bootstrapper.params;
        let ct = world.encrypt(&random_slots(slots as usize, 3), params.input_level());
        for together in [Together::Single, Together::Pair] {
            let before = world.ctx.work();
            match together {
                Together::Single => {
                    drop(world.bootstrapper.refresh(&ct, &world.keys).expect("keys are there"))
                }
                Together::Pair => {
                    drop(world.bootstrapper.refresh_pair(&ct, &ct, &world.keys).expect("keys are there"));
                }
            }
            let done = world.ctx.work() - before;
            let foreseen = params.work(world.slots(), together).expect("slots fit");
            for (what, done, foreseen, tolerance) in [
                ("butterflies", done.butterflies, foreseen.butterflies, 0.02),
                ("conversions", done.conversions, foreseen.conversions, 0.02),
                ("key words", done.key_words, foreseen.key_words, 0.02),
                ("plain products", done.plain_products, foreseen.plain_products, 0.02),
                ("words", done.words, foreseen.words, 0.1),
            ] {
                assert!(
                    (foreseen / done - 1.0).abs() <= tolerance,
                    "{what} of {slots} slots, {together:?}: {foreseen} foreseen, {done} done"
                );
            }
        }
    }
}

#[test]
fn sparse_slots() {
    for slots in [2, 8, 64] {
        World::small(small_spec(9), slots).assert_refreshes(7, 18.0);
    }
}

#[test]
fn more_double_angles_a_higher_degree_and_an_arcsine() {
    let spec = small_spec(8);
    let with = |degree, double_angles, arcsine, ratio_bits| {
        let eval_mod = EvalModSpec { degree, double_angles, arcsine, ..spec.eval_mod };
        BootstrapSpec { eval_mod, ratio_bits, ..spec.clone() }
    };
    let assert = |spec: BootstrapSpec, bits: f64| {
        let world = World::small(spec, 128);
        (0..3).for_each(|seed| world.assert_refreshes(seed, bits));
    };
    assert(with(63, 2, Arcsine::None, 11), 18.0);
    // A small ratio is only good with an arcsine.
    assert(with(63, 2, Arcsine::Degree7, 6), 20.0);
    assert(with(63, 2, Arcsine::Degree3, 8), 20.0);
}

#[test]
fn every_kernel_path_gives_the_same_bits() {
    // The smallest ring for which every path has a transform of its own.
    let params = small_spec(9).check_insecure_for_tests().expect("valid");
    let reference = World::new(&params, 256, Kernels::scalar());
    let inputs = [1, 2].map(|seed| reference.encrypt(&random_slots(256, seed), params.input_level()));
    let run = |world: &World| {
        world.bootstrapper.refresh_pair(&inputs[0], &inputs[1], &reference.keys).expect("keys are there")
    };
    let expected = run(&reference);
    for kernels in Kernels::available() {
        let world = World::new(&params, 256, kernels);
        assert!(run(&world) == expected, "{kernels:?}");
    }
}

#[test]
fn a_refreshed_ciphertext_can_be_computed_on_and_refreshed_again() {
    let world = World::small(small_spec(8), 128);
    let x = random_slots(128, 5);
    let (level, ev) = (world.bootstrapper.params.input_level(), &world.bootstrapper.evaluator);
    let once = world.bootstrapper.refresh(&world.encrypt(&x, level), &world.keys).expect("keys are there");
    let square = ev.square_relin(&once, world.keys.evaluation()).and_then(|square| ev.rescale(&square));
    let square = square.expect("two levels to spend");
    // A multiplication by one brings the scale back to that of the input.
    let back = input_scale().mul(&Scale::prime(square.level().0)).div(square.scale());
    let again = ev.mul_scalar(&square, 1.0, &back).and_then(|ct| ev.rescale(&ct)).expect("a level to spend");
    let twice = world.bootstrapper.refresh(&again, &world.keys).expect("keys are there");
    let expected: Vec<f64> = x.iter().map(|x| x * x).collect();
    assert!(world.bits(&twice, &expected) >= 16.0);
}

#[test]
fn usable_primes_of_any_size_and_stated_primes() {
    let spec = BootstrapSpec { usable: vec![28, 50, 22], ..small_spec(6) };
    let params = spec.clone().check_insecure_for_tests().expect("valid");
    assert_eq!(spec.clone().check_for(params.main()).expect("its own primes"), params);
    let other = small_spec(6).check_for(params.main());
    assert!(matches!(other, Err(Error::ForeignParameters { .. })), "{other:?}");
    World::new(&params, 32, Kernels::detect()).assert_refreshes(1, 18.0);
}

#[test]
fn plans_without_diagonals_are_those_with_them() {
    let params = small_spec(9).check_insecure_for_tests().expect("valid");
    let max = params.main().max_slots();
    for log in 1..=8 {
        let slots = Slots::new(1 << log).expect("power of two");
        let planned = params.transforms(slots).expect("fits").into_iter().map(|(plan, _)| plan);
        let down = dft::slots_to_coeffs(slots, &params.spec().down_groups(slots), max);
        let up = dft::coeffs_to_slots(slots, &params.spec().up_groups(slots), max, 1.0);
        assert!(planned.eq(down.into_iter().chain(up).map(|factor| factor.plan)), "2^{log} slots");
    }
}

#[test]
fn presets_are_secure_and_unlikely_to_fail() {
    for spec in [BootstrapSpec::n16(), BootstrapSpec::n15()] {
        let params = spec.check().expect("a preset");
        assert!(params.main().is_secure() && params.ephemeral().is_secure());
        assert!(params.failure_log2(params.main().max_slots()) < -128.0);
    }
    assert!(BootstrapSpec::n16().check().expect("a preset").usable_bits() > 499.9);
}

#[test]
fn insecure_and_senseless_parameters_are_refused() {
    let refused = |change: fn(&mut BootstrapSpec)| {
        let mut spec = BootstrapSpec::n16();
        change(&mut spec);
        spec.check().expect_err("must be refused").to_string()
    };
    assert!(refused(|s| s.usable = vec![50; 12]).contains("exceeds 1700"));
    let ephemeral = refused(|s| s.ephemeral_special = 7);
    assert!(ephemeral.contains("ephemeral secret") && ephemeral.contains("340"), "{ephemeral}");
    assert!(refused(|s| s.ephemeral_special = 0).contains("special prime"));
    assert!(refused(|s| s.coeffs_to_slots.count = 0).contains("at least one factor"));
    assert!(refused(|s| s.slots_to_coeffs.count = 16).contains("factors"));
    assert!(refused(|s| s.eval_mod.degree = 1).contains("degree"));
    assert!(refused(|s| s.ratio_bits = 60).contains("ratio"));
    assert!(refused(|s| s.usable.clear()).contains("usable"));
}

#[test]
fn unfit_inputs_are_refused() {
    let world = World::small(small_spec(6), 32);
    let level = world.bootstrapper.params.input_level();
    let refresh = |ct: &Ciphertext, keys: &BootstrapKeys| world.bootstrapper.refresh(ct, keys);
    let good = world.encrypt(&random_slots(32, 1), level);
    assert!(refresh(&good, &world.keys).is_ok());
    let low = world.encrypt(&random_slots(32, 1), Level(level.0 - 1));
    assert!(matches!(refresh(&low, &world.keys), Err(Error::LevelOutOfRange { .. })));
    let scaled = Ciphertext { scale: Scale::pow2(39), ..good.clone() };
    assert!(matches!(refresh(&scaled, &world.keys), Err(Error::ScaleMismatch { .. })));
    let empty = BootstrapKeys { evaluation: crate::keys::EvalKeys::new(), ..world.keys.clone() };
    assert!(matches!(refresh(&good, &empty), Err(Error::MissingKey { .. })));
    let other = small_spec(7).check_insecure_for_tests().expect("valid");
    let foreign = Bootstrapper::new(&other, &world.ctx, world.slots(), &input_scale());
    assert!(matches!(foreign, Err(Error::ForeignParameters { .. })));
    let params = world.bootstrapper.params();
    let wide = Bootstrapper::new(params, &world.ctx, Slots::new(64).expect("power of two"), &input_scale());
    assert!(matches!(wide, Err(Error::TooManySlots { .. })));
}

#[test]
fn keys_survive_the_wire_and_others_are_refused() {
    let world = World::small(small_spec(6), 32);
    let write = |keys: &BootstrapKeys| {
        let mut bytes = Vec::new();
        keys.write_to(&world.bootstrapper, &mut bytes).expect("memory");
        bytes
    };
    let read = |bytes: &[u8]| BootstrapKeys::read_from(&world.bootstrapper, &mut &bytes[..]);
    let bytes = write(&world.keys);
    assert!(read(&bytes).expect("own keys") == world.keys);
    assert!(bytes.len() < world.keys.bytes() / 2 + 8192, "keys are stored seeded");
    assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(Error::Wire(_))));
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    assert!(matches!(read(&damaged), Err(Error::Wire(_))));
    let without = BootstrapKeys { evaluation: crate::keys::EvalKeys::new(), ..world.keys.clone() };
    assert!(matches!(read(&write(&without)), Err(Error::MissingKey { .. })));
    let generator = KeyGenerator::insecure_deterministic_for_tests(&world.ctx, SEED);
    let low = generator.relin(&world.sk, Level(0)).expect("valid level");
    let weak = BootstrapKeys { to_main: low, ..world.keys.clone() };
    assert!(matches!(read(&write(&weak)), Err(Error::LevelOutOfRange { .. })));
}

/// The presets, secure: about a minute and 6 GiB.
#[test]
#[ignore = "large rings: cargo test --release -p peregrine-ckks --lib bootstrap -- --ignored"]
fn presets_keep_sixteen_bits() {
    for spec in [BootstrapSpec::n15(), BootstrapSpec::n16()] {
        let params = spec.check().expect("a preset");
        let world = World::new(&params, params.main().max_slots().get(), Kernels::detect());
        (0..2).for_each(|seed| world.assert_refreshes(seed, 16.0));
    }
}
