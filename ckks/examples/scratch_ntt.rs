#![allow(missing_docs, clippy::print_stdout)]
use peregrine_ckks::{context::Context, kernels::Kernels, params::{ParamsLiteral, PrimeSpec}};
use std::time::Instant;
fn main() {
    let bits = |c| vec![PrimeSpec::Bits(50); c];
    let params = ParamsLiteral { log_n: 16, q: bits(24), p: bits(8) }.check().unwrap();
    let own = Context::new(&params).unwrap();
    let lib = Context::with_kernels(&params, Kernels::avx2().unwrap()).unwrap();
    let n = 1 << 16;
    let mut data: Vec<Vec<u64>> = (0..24).map(|i| (0..n).map(|k| (k as u64 * 77777 + i) % (1 << 49)).collect()).collect();
    for round in 0..2 { for (name, ctx) in [("own", &own), ("lib", &lib)] {
        let mut best = [f64::MAX; 4];
        for _ in 0..300 {
            let s = Instant::now(); ctx.q_tables()[0].forward(&mut data[0]); best[0] = best[0].min(s.elapsed().as_secs_f64());
        }
        for _ in 0..300 {
            let s = Instant::now(); ctx.q_tables()[0].inverse(&mut data[0]); best[1] = best[1].min(s.elapsed().as_secs_f64());
        }
        for _ in 0..15 {
            let s = Instant::now();
            for i in 0..24 { ctx.q_tables()[i].forward(&mut data[i]); }
            best[2] = best[2].min(s.elapsed().as_secs_f64() / 24.0);
            let s = Instant::now();
            for i in 0..24 { ctx.q_tables()[i].inverse(&mut data[i]); }
            best[3] = best[3].min(s.elapsed().as_secs_f64() / 24.0);
        }
        // three limbs of a prime
        let mut three = f64::MAX;
        for _ in 0..15 {
            let s = Instant::now();
            for i in 0..24 { let [a, b, c, ..] = &mut data[..] else { return }; ctx.q_tables()[i].forward_all(&mut [a, b, c]); }
            three = three.min(s.elapsed().as_secs_f64() / 72.0);
        }
        println!("{round} {name} one prime fwd {:.1} inv {:.1}; cycling fwd {:.1} inv {:.1}; three at a time {:.1} us", best[0]*1e6, best[1]*1e6, best[2]*1e6, best[3]*1e6, three*1e6);
    }}
}
