//! A program that bootstraps, in a small ring without security: client, server and the clear run agree.

use peregrine_ckks::bootstrap::PrimeRun;
use peregrine_ckks::context::Context;
use peregrine_ckks::encrypt::SeededCiphertext;
use peregrine_ckks::params::Params;
use peregrine_ckks::units::{Scale, Slots};
use peregrine_ir::client::ClientPart;
use peregrine_ir::layout::{Chw, Digit, Layout, Place};
use peregrine_ir::linear::LayoutId;
use peregrine_ir::program::{Inst, KeyManifest, Noise, Program, ProgramInput, ProgramOutput, Refresh, Reg};
use peregrine_ir::{BootstrapSpec, ConstId, ConstTensor, EvalModSpec, RefreshForm};

use crate::clear;
use crate::client::{Client, NamedTensor};
use crate::exec::{Control, KeyStore, ScratchKeys, Server, ServerKeys};
use crate::loader::Loaded;
use crate::progress::Silent;
use crate::report::error_bits;

const MINIMUM_BITS: f64 = 12.0;
const VALUES: usize = 64;

fn spec() -> BootstrapSpec {
    BootstrapSpec {
        log_n: 9,
        slots_to_coeffs: PrimeRun::new(2, 32),
        usable: vec![50, 50, 22],
        eval_mod: EvalModSpec { boost_bits: 0, ..BootstrapSpec::n16().eval_mod },
        coeffs_to_slots: PrimeRun::new(3, 46),
        special: PrimeRun::new(6, 50),
        ..BootstrapSpec::n16()
    }
}

/// Refreshes x alone, and (x, x) together lifted to about 2^28; gives out the first, a copy of the pair, and the square.
fn program(slots: Slots) -> (Program, Params) {
    let spec = spec();
    let checked = spec.clone().check_insecure_for_tests().expect("valid");
    let mut program = Program::new("refreshing".to_owned(), checked.main().to_literal());
    let unit = program.consts.push(ConstTensor::f64(vec![1], vec![3.0]));
    let slot = |radix, stride| vec![Digit { radix, place: Place::Slot(stride) }];
    program.layouts.push(Layout {
        shape: Chw { c: 1, h: 8, w: 8 },
        digits: [slot(1, 1), slot(8, 8), slot(8, 1)],
        period: slots,
        ciphertexts: 1,
        blocks: Default::default(),
    });
    let scale = Scale::pow2(40);
    let (input_level, layout) = (spec.input_level(), LayoutId(0));
    program.inputs.push(ProgramInput {
        name: "x".to_owned(),
        layout,
        level: input_level,
        scale: scale.clone(),
        unit,
    });
    let plain = RefreshForm { range_bits: 0, lift_bits: None };
    let lifted = RefreshForm { range_bits: 1, lift_bits: Some(12) };
    let mut recipe = |form| program.refreshes.push(Refresh { slots, scale: scale.clone(), form });
    let (alone, together) = (recipe(plain), recipe(lifted));
    program.insts = vec![
        Inst::Input { dst: Reg(0), input: 0, cipher: 0 },
        Inst::Bootstrap { dst: Reg(1), src: Reg(0), refresh: alone },
        Inst::BootstrapPair { dsts: [Reg(2), Reg(3)], srcs: [Reg(0), Reg(0)], refresh: together },
        Inst::Square { dst: Reg(4), src: Reg(3) },
    ];
    let (level, small) = lifted.result(&spec).expect("there are usable levels");
    let (top, large) = plain.result(&spec).expect("there are usable levels");
    let ports = [(Reg(1), top, large), (Reg(2), level, small.clone()), (Reg(4), level, small.square())];
    for (output, (src, level, scale)) in (0u32..).zip(ports) {
        let (name, shape) = (format!("y{output}"), vec![1, VALUES]);
        program.outputs.push(ProgramOutput { name, shape, layout, level, scale, unit: ConstId(0) });
        program.insts.push(Inst::Output { output, cipher: 0, src });
    }
    program.layers = vec!["all".to_owned()];
    program.inst_layers = vec![0; program.insts.len()];
    program.manifest = KeyManifest {
        relin: Some(checked.eval_mod_level()),
        galois: checked.galois_elements(slots).expect("they fit").into_iter().collect(),
    };
    program.bootstrap = Some(spec);
    (program, checked.main().clone())
}

fn loaded(slots: u32) -> Loaded {
    let (program, params) = program(Slots::new(slots).expect("a power of two"));
    peregrine_ir::program::verify_at(&program, &params).expect("valid");
    Loaded::checked(program, ClientPart::default(), &params).expect("consistent")
}

fn input() -> NamedTensor {
    let data = (0..VALUES).map(|i| 3.0 * (i as f64 * 0.37).sin()).collect();
    NamedTensor { name: "x".to_owned(), shape: vec![1, 1, 8, 8], data }
}

#[test]
fn refreshed_ciphertexts_are_what_the_clear_run_says() {
    for slots in [64, 256] {
        let loaded = loaded(slots);
        let context = Context::new(&loaded.interface.params).expect("a ring");
        let client = Client::new(loaded.interface.clone(), &context);
        let keys = client.evaluation_keys(&Silent).expect("keys");
        let server = Server::new(&loaded).expect("a server");
        let uploads = client.encrypt(&[input()]).expect("ciphertexts");
        let expand = |c: &SeededCiphertext| c.expand(&context).expect("it expands");
        let inputs: Vec<Vec<_>> = uploads.iter().map(|c| c.iter().map(expand).collect()).collect();
        let execution = server.run(&context, &inputs, &keys, &Silent).expect("a run");
        let found = client.decrypt(&execution.outputs).expect("outputs");
        let clear = clear::run(&loaded.program, &loaded.interface, Noise::None, &[input()], &[])
            .expect("a clear run");
        assert!(clear.overflows.is_empty());
        for (found, clear) in found.iter().zip(&clear.outputs) {
            let bits = error_bits(std::slice::from_ref(found), std::slice::from_ref(clear));
            assert!(bits >= MINIMUM_BITS, "{}: {bits} bits at {slots} slots", clear.name);
        }
        let ServerKeys::Bootstrapping(keys) = keys else { panic!("the program bootstraps") };
        let without = ServerKeys::from(keys.evaluation().clone());
        let refusal = server.run(&context, &inputs, &without, &Silent).err().expect("it is refused");
        assert!(refusal.to_string().contains("ephemeral secret"), "{refusal}");
    }
}

/// With room for the keys of one instruction only, the others in a folder: the bits of a run with all keys in memory.
#[test]
fn keys_of_refreshes_come_from_a_scratch_folder() {
    let loaded = loaded(64);
    let context = Context::new(&loaded.interface.params).expect("a ring");
    let client = Client::new(loaded.interface.clone(), &context);
    let server = Server::new(&loaded).expect("a server");
    let uses = server.key_uses().clone();
    let (largest, all) = (uses.largest(), server.memory().keys);
    assert!(largest <= all, "{largest} of {all}");
    let folder = tempfile::tempdir().expect("a folder");
    let ServerKeys::Bootstrapping(keys) = client.evaluation_keys(&Silent).expect("keys") else {
        panic!("the program bootstraps")
    };
    let mut resident = keys.clone();
    for key in keys.evaluation().iter() {
        resident.evaluation_mut().remove(key.element());
    }
    let resident = ServerKeys::Bootstrapping(resident);
    let mut store = ScratchKeys::new(folder.path(), &context, uses, largest, resident).expect("a store");
    keys.evaluation().iter().for_each(|key| store.store(key).expect("it is written"));

    let uploads = client.encrypt(&[input()]).expect("ciphertexts");
    let expand = |c: &SeededCiphertext| c.expand(&context).expect("it expands");
    let inputs: Vec<Vec<_>> = uploads.iter().map(|c| c.iter().map(expand).collect()).collect();
    let whole = server.run(&context, &inputs, &ServerKeys::Bootstrapping(keys), &Silent).expect("a run");
    let (start, control) = (server.start(), Control::default());
    let streamed = server.run_from(&context, &inputs, KeyStore::Scratch(&mut store), start, control, &Silent);
    assert_eq!(streamed.expect("a run").outputs, whole.outputs);
}

#[test]
fn values_beyond_the_range_of_a_refresh_are_told() {
    let loaded = loaded(64);
    let mut far = input();
    far.data[5] = 24.0;
    let clear =
        clear::run(&loaded.program, &loaded.interface, Noise::None, &[far], &[]).expect("a clear run");
    let told: Vec<String> = clear.overflows.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("layer `all`: values reach 8.0 times"), "{told:?}");
    assert!(told[1].contains("4.0 times") && told[1].contains("may be wrong"), "{told:?}");
}
