//! Programs that bootstrap: the rules of the verifier broken once, text and file, and the clear machine.

use peregrine_ckks::bootstrap::PrimeRun;
use peregrine_ckks::units::{GaloisElement, Level, Scale};

use super::*;
use crate::container;
use crate::refresh::RefreshForm;
use crate::samples::{refreshing, slots};
use crate::text::{parse_program, print_program};
use crate::verify::{Contents, Counted, Entity, Key, Problem, Site};

fn broken(change: impl FnOnce(&mut Program)) -> (Site, Problem) {
    let mut program = refreshing();
    change(&mut program);
    let mut errors = verify(&program).unwrap_err();
    let error = errors.errors.remove(0);
    (error.site, error.problem)
}

#[test]
fn the_sample_is_valid_and_survives_text_and_file() {
    let program = refreshing();
    verify(&program).unwrap();
    let text = print_program(&program);
    assert!(text.contains("\n  bootstrap base=50 s2c=2x30 usable=46,46 mod=50+0 degree=31 angles=3 arcsine=1 c2s=3x44 special=1x50 ephemeral=1 ratio=11\n"), "{text}");
    assert!(text.contains("\n  b0 = refresh slots=16 scale=2^40 range=1 lift=-\n"), "{text}");
    assert!(text.contains("r1 = bootstrap b0(r0) @0\n  r2, r3 = bootstrap b0(r0, r0) @0"), "{text}");
    assert_eq!(parse_program(&text, &program.consts).unwrap(), program);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.fhe");
    container::write(&path, &program, &crate::client::ClientPart::default()).unwrap();
    assert_eq!(container::read(&path).unwrap().program, program);
}

#[test]
fn rule_11_the_specification_is_that_of_the_primes() {
    assert_eq!(broken(|p| p.bootstrap = None), (Site::Params, Problem::NoBootstrap));
    let (site, problem) = broken(|p| p.refreshes = PrimaryMap::new());
    assert_eq!((site, problem), (Site::Params, Problem::None(Counted::Refreshes)));
    let refused = |change: fn(&mut BootstrapSpec)| {
        let (site, problem) = broken(|p| p.bootstrap.iter_mut().for_each(change));
        assert!(site == Site::Params && matches!(problem, Problem::Bootstrap(_)), "{site}: {problem}");
        problem.to_string()
    };
    assert!(refused(|s| s.usable = vec![46, 45]).contains("other parameters"));
    assert!(refused(|s| s.log_n = 16).contains("other parameters"));
    assert!(refused(|s| s.ephemeral_special = 2).contains("special prime"));
    // Numbers that a hostile file may hold.
    refused(|s| s.log_n = u32::MAX);
    refused(|s| s.special = PrimeRun { count: usize::MAX, bits: 50 });
    refused(|s| s.coeffs_to_slots.count = usize::MAX);
    refused(|s| s.eval_mod.degree = u32::MAX);
    refused(|s| s.eval_mod.boost_bits = 22);
    refused(|s| s.usable = vec![0; 1000]);
    refused(|s| s.ratio_bits = u32::MAX);
}

#[test]
fn rule_11_the_ephemeral_secret_has_its_own_bound() {
    // Four primes of 50 bits are within the bound of the main secret at N = 2^15, not within that of a secret of weight 32.
    let (site, problem) = broken(|p| {
        let spec = BootstrapSpec {
            special: PrimeRun::new(3, 50),
            ephemeral_special: 3,
            usable: vec![46],
            coeffs_to_slots: PrimeRun::new(2, 44),
            ..BootstrapSpec::n15()
        };
        p.params = spec.literal().check().unwrap().to_literal();
        p.bootstrap = Some(spec);
    });
    assert!(site == Site::Params && problem.to_string().contains("ephemeral secret"), "{site}: {problem}");
}

#[test]
fn rule_11_refreshes() {
    let id = RefreshId(0);
    let at_recipe = |change: fn(&mut Refresh)| {
        let (site, problem) = broken(|p| change(&mut p.refreshes[id]));
        assert_eq!(site, Site::Entry(Entity::Refresh(id)), "{problem}");
        problem
    };
    let wide = RefreshForm { range_bits: 99, lift_bits: None };
    assert!(matches!(at_recipe(|r| r.form.range_bits = 99), Problem::RefreshForm(form) if form == wide));
    assert!(matches!(at_recipe(|r| r.form.lift_bits = Some(u32::MAX)), Problem::RefreshForm(_)));
    assert!(matches!(at_recipe(|r| r.form.lift_bits = Some(0)), Problem::ScaleRange { .. }));
    assert!(matches!(at_recipe(|r| r.scale = Scale::pow2(80)), Problem::ScaleRange { .. }));
    assert!(matches!(at_recipe(|r| r.scale = Scale::prime(77)), Problem::MalformedScale(_)));
    assert!(matches!(at_recipe(|r| r.slots = slots(32768)), Problem::Bootstrap(_)));
    assert!(matches!(at_recipe(|r| r.slots = slots(1)), Problem::Bootstrap(_)));
    let at_first = |change: &dyn Fn(&mut Program)| {
        let (site, problem) = broken(|p| change(p));
        assert_eq!(site, Site::Entry(Entity::Inst(1)), "{problem}");
        problem
    };
    let scale = at_first(&|p| p.refreshes[id].scale = Scale::pow2(39));
    assert!(matches!(scale, Problem::ScaleMismatch { .. }));
    let level = at_first(&|p| p.inputs[0].level = Level(3));
    assert_eq!(level, Problem::LevelMismatch { expected: Level(2), found: Level(3) });
    let period = at_first(&|p| {
        p.refreshes[id].slots = slots(32);
        let checked = p.bootstrap.clone().unwrap().check().unwrap();
        p.manifest.galois = checked.galois_elements(slots(32)).unwrap().into_iter().collect();
    });
    assert!(matches!(period, Problem::Contents { expected: Contents::Raw { period: 32 }, .. }));
    let unknown = RefreshId(7);
    let inst = Inst::Bootstrap { dst: Reg(1), src: Reg(0), refresh: unknown };
    assert_eq!(at_first(&|p| p.insts[1] = inst.clone()), Problem::Unknown(Entity::Refresh(unknown)));
    let twice = broken(|p| {
        p.insts[2] = Inst::BootstrapPair { dsts: [Reg(2), Reg(2)], srcs: [Reg(0), Reg(0)], refresh: id };
    });
    assert_eq!(twice, (Site::Entry(Entity::Inst(2)), Problem::Reassigned(Reg(2))));
}

#[test]
fn rule_8_keys_of_refreshes() {
    let (_, problem) = broken(|p| p.manifest.relin = Some(Level(3)));
    assert!(matches!(problem, Problem::MissingKey { key: Key::Relin, .. }));
    let conjugation = GaloisElement::conjugation(1 << 15);
    let (_, problem) = broken(|p| {
        p.manifest.galois.remove(&conjugation);
    });
    assert!(matches!(problem, Problem::MissingKey { key: Key::Galois(e), .. } if e == conjugation));
    let top = |p: &mut Program| {
        let level = Level(p.params.q.len() as u32 - 1);
        p.manifest.galois.insert(conjugation, level);
    };
    assert!(matches!(broken(top).1, Problem::ExcessKey { key: Key::Galois(e), .. } if e == conjugation));
}

#[test]
fn in_the_clear_a_refresh_is_the_identity_and_shows_its_operand() {
    let program = refreshing();
    let x: Vec<f64> = (0..16).map(|i| f64::from(i) / 4.0 - 1.5).collect();
    let packed = vec![pack_input(&program, 0, &x).unwrap()];
    let run = |noise| {
        let machine = ClearMachine::new(&program, noise).unwrap();
        let mut seen = Vec::new();
        let outputs = machine.watch(&packed, &mut |s| match s {
            Seen::Refresh(refreshed) => {
                seen.push((refreshed.layer.to_owned(), refreshed.largest, refreshed.allowed))
            }
            Seen::Probe(_) => unreachable!("there are no probes"),
        });
        (outputs.unwrap(), seen)
    };
    let (outputs, seen) = run(Noise::None);
    // The unit is 2: slots reach 1.125.
    assert_eq!(seen, vec![("stem".to_owned(), 1.125, 2.0); 2]);
    for (output, slots) in outputs.iter().enumerate() {
        assert_eq!(unpack_output(&program, output, slots).unwrap(), x);
    }
    let (outputs, _) = run(Noise::Model { seed: 3 });
    for (output, slots) in outputs.iter().enumerate() {
        let found = unpack_output(&program, output, slots).unwrap();
        let error = found.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error > 2f64.powi(-20) && error < 2f64.powi(-13), "output {output}: {error}");
    }
}
