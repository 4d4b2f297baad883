//! The page: well-formed, self-contained, and deaf to what model names say.

use super::super::model::{
    ActivationReport, BudgetReport, CheckReport, ErrorReport, FitSummary, ForeseenReport, KeyKind, KeyPlan,
    KeyReport, LayerReport, LevelUse, LinearReport, ModelReport, OutputError, OutputReport, OutsideReport,
    ParametersReport, PassReport, PictureReport, Report, SourceReport, Totals, ValueKind, ValueReport,
};
use super::{escape, page};

/// A name that would break out of every place a text is put in.
const HOSTILE: &str = "</title></style><script>alert(1)</script>\" onload='x' <!-- & \u{0}";

/// A value of the graph.
pub(super) fn value(layer: &str, args: &[usize]) -> ValueReport {
    ValueReport {
        kind: if args.is_empty() { ValueKind::Input } else { ValueKind::Linear },
        layer: layer.to_owned(),
        args: args.to_vec(),
        shape: [16, 32, 32],
        layout: "c=16@s1 y=32@s16 x=32@s512".to_owned(),
        ciphertexts: 1,
        period: 16384,
        occupancy: 1.0,
        level: Some(3),
        log_scale: Some(28.0),
        degree: None,
        output: None,
    }
}

fn layer(name: &str) -> LayerReport {
    LayerReport {
        name: name.to_owned(),
        level_in: Some(3),
        level_out: Some(2),
        instructions: 4,
        rotations: 17,
        products: 144,
        multiplications: 1,
        bootstraps: 0,
        keys: 9,
        key_bytes: 1 << 30,
        seconds: 0.25,
        error: Some(ErrorReport { error: 1e-4, magnitude: 1.0, bits: 13.3 }),
        foreseen: Some(ForeseenReport { error: 2e-4, share: 0.4 }),
    }
}

fn activation(name: &str) -> ActivationReport {
    ActivationReport {
        layer: name.to_owned(),
        degree: 4,
        channels: 16,
        range: [-2.0, 3.0],
        seen: Some([-1.5, 2.0]),
        rms_error: Some(0.02),
        floored: 1,
        refitted: Some("conv".to_owned()),
        calibration: Some(OutsideReport { outside: 3, total: 100, worst: 0.25 }),
        check: Some(OutsideReport { outside: 0, total: 100, worst: 0.0 }),
    }
}

/// A report whose every text is `name`.
fn report(name: &str) -> Report {
    let text = || name.to_owned();
    let output = OutputError { name: text(), error: 1e-3, range: 8.0, bits: 12.9, same_top: true };
    Report {
        model: ModelReport {
            name: text(),
            hash: text(),
            compiler: text(),
            input: text(),
            input_shape: vec![1, 3, 32, 32],
            picture: Some(PictureReport { height: 32, width: 32, mean: vec![0.5], std: vec![0.5] }),
            head: true,
            tail: true,
            outputs: vec![OutputReport { name: text(), shape: vec![1, 10], ciphertexts: 1, level: 0 }],
        },
        parameters: ParametersReport {
            log_n: 16,
            slots: 32768,
            log_q: 860.0,
            log_qp: 1110.0,
            levels: 3,
            chain_bits: vec![48.0, 50.0, 50.0, 50.0],
            special_bits: vec![50.0],
            security_bits: Some(130.0),
        },
        totals: Totals {
            instructions: 10,
            linear_calls: 2,
            rotations: 34,
            products: 288,
            multiplications: 2,
            bootstraps: 1,
            seconds: 0.5,
            keys: 9,
            key_bytes: 1 << 30,
            constant_bytes: 1 << 20,
            ciphertext_bytes: 1 << 24,
            scratch_bytes: 1 << 24,
            peak_bytes: (1 << 30) + (1 << 20) + (1 << 25),
            input_bytes: 1 << 20,
            output_bytes: 1 << 18,
        },
        linear: LinearReport { operators: 3, free: 1, levels: vec![LevelUse { levels: 1, values: 2 }] },
        budget: BudgetReport { bits: 12.5, sources: vec![SourceReport { source: "rescale", share: 0.6 }] },
        values: vec![
            value(name, &[]),
            value(name, &[0]),
            ValueReport { output: Some(text()), layout: text(), ..value(name, &[1, 0]) },
        ],
        layers: vec![layer(name), layer(name)],
        activations: vec![activation(name)],
        fit: Some(FitSummary { agreement: 0.97, output_error: 0.1 }),
        check: Some(CheckReport { outputs: vec![output], tolerance: 1.0 / 128.0, passes: true }),
        keys: vec![KeyReport {
            kind: KeyKind::Galois,
            element: Some(5),
            rotation: Some(1),
            level: 3,
            bytes: 1 << 27,
            layers: 2,
        }],
        key_plans: [(0.5, 30, true), (0.7, 29, false)]
            .map(|(seconds, log, chosen)| KeyPlan { name: text(), seconds, key_bytes: 1 << log, chosen })
            .to_vec(),
        passes: vec![PassReport { pass: "fold", nodes: 3, seconds: 0.001 }],
    }
}

/// The tags of a page, in order, and that every one that opens closes.
fn tags(html: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for piece in html.split('<').skip(1) {
        let end = piece.find('>').expect("every tag ends");
        let tag = &piece[..end];
        if tag.starts_with('!') {
            continue;
        }
        let name: String = tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric()).collect();
        if let Some(closing) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closing), "tags nest");
        } else if !tag.ends_with('/') && name != "meta" {
            open.push(name.clone());
        }
        found.push(name);
    }
    assert_eq!(open, Vec::<String>::new(), "every tag is closed");
    found
}

#[test]
fn hostile_names_stay_text() {
    let (plain, hostile) = (page(&report("plain")), page(&report(HOSTILE)));
    assert_eq!(tags(&plain), tags(&hostile), "names make no markup");
    assert!(!hostile.contains("<script") && !hostile.contains("alert(1)</script>"));
    assert!(!hostile.contains(HOSTILE) && hostile.contains(&escape(HOSTILE)));
    for tag in hostile.split('<').skip(1).map(|piece| piece.split('>').next().unwrap_or_default()) {
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes are paired in <{tag}>");
        assert!(!tag.contains("onload='x'"), "an attribute broke out: <{tag}>");
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let page = page(&report("model"));
    for part in ["http:", "https:", "url(", "@import", "src=", "<link", "<script"] {
        assert!(!page.contains(part), "`{part}` in the page");
    }
    assert!(page.contains("width=device-width") && page.contains("prefers-color-scheme: dark"));
    for part in [
        "12.9",
        "0.50 s",
        "N = 2<sup>16</sup>",
        "rotation by 1",
        "3 of 100",
        "within the tolerance",
        "1.03 GiB",
    ] {
        assert!(page.contains(part), "`{part}` is missing");
    }
}

#[test]
fn nothing_measured_and_nothing_finite_are_pages_too() {
    let mut empty = report("m");
    (empty.values, empty.layers, empty.activations) = (Vec::new(), Vec::new(), Vec::new());
    (empty.check, empty.fit, empty.keys, empty.key_plans) = (None, None, Vec::new(), Vec::new());
    tags(&page(&empty));
    let mut odd = report("m");
    odd.layers[0].seconds = f64::NAN;
    odd.layers[0].error = Some(ErrorReport { error: f64::NAN, magnitude: 0.0, bits: f64::NAN });
    odd.activations[0].range = [f64::NEG_INFINITY, f64::INFINITY];
    odd.values[1].level = None;
    tags(&page(&odd));
    serde_json::to_string(&odd).expect("numbers that are not finite serialise");
}

#[test]
fn a_network_of_hundreds_of_layers_is_folded_and_small() {
    let mut large = report("conv");
    let name = |i: usize| format!("/backbone/stage{}/block{}/conv/Conv_{i}", i / 80, i / 10);
    large.layers = (0..320).map(|i| layer(&name(i))).collect();
    large.activations = (0..160).map(|i| activation(&name(i))).collect();
    // Residual blocks of three, every tenth value kept to the end.
    let args = |i: usize| match i {
        0 => vec![],
        i if i % 3 == 0 => vec![i - 1, i - 3],
        i if i % 100 == 1 => vec![i - 1, i / 2],
        i => vec![i - 1],
    };
    large.values = (0..320).map(|i| value(&name(i), &args(i))).collect();
    let page = page(&large);
    tags(&page);
    assert_eq!(page.matches("<details>").count(), 3, "long tables are folded");
    assert!(page.len() < 700_000, "{} bytes", page.len());
}

#[test]
fn escaping() {
    assert_eq!(escape("a<b>&\"'\u{7}é"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}é");
}
