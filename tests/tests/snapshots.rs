//! The text of fixture (a) at each level of the IR. Read a new snapshot before you accept it.

use peregrine_compiler::driver;
use peregrine_compiler::gate::Tolerance;
use peregrine_compiler::report::Report;
use peregrine_ir::text::{parse_fhe, parse_program, parse_tensor, print_fhe, print_program, print_tensor};
use peregrine_tests::{compile_options, compiled};

#[test]
fn square_fashion_at_each_level() {
    let (_, lowered) = compiled(&compile_options("square_fashion.onnx"));
    let (tensor, fhe, program) =
        (&lowered.compiled.polynomial, &lowered.compiled.fhe, &lowered.compiled.program);
    let texts = [print_tensor(tensor), print_fhe(fhe), print_program(program)];
    assert_eq!(parse_tensor(&texts[0], &tensor.tables.consts).as_ref(), Ok(tensor));
    assert_eq!(parse_fhe(&texts[1], &fhe.tables.consts).as_ref(), Ok(fhe));
    assert_eq!(parse_program(&texts[2], &program.consts).as_ref(), Ok(program));
    for (level, text) in ["tensor", "fhe", "program"].iter().zip(&texts) {
        insta::assert_snapshot!(format!("square_fashion_{level}"), without_hashes(text));
    }
}

/// Units come from ranges measured in `f32`, whose last bits depend on the vector unit: hashes of constants are left out.
fn without_hashes(text: &str) -> String {
    let line = |line: &str| match line.split_once("] #") {
        Some((shape, _)) => format!("{shape}] #\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The report's fields, with the kinds of their values: programs that read it depend on them.
#[test]
fn fields_of_the_report() {
    let (prepared, lowered) = compiled(&compile_options("square_fashion.onnx"));
    let check = driver::check(&prepared, &lowered, Tolerance::default()).expect("it is checked");
    let report = Report::of(&prepared, &lowered, Some(&check)).expect("it is reported");
    let json = serde_json::to_value(&report).expect("it serialises");
    let mut fields = Vec::new();
    kinds("", &json, &mut fields);
    fields.sort();
    fields.dedup();
    insta::assert_snapshot!("report_fields", fields.join("\n"));
}

fn kinds(path: &str, value: &serde_json::Value, fields: &mut Vec<String>) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, inner)| kinds(&format!("{path}.{key}"), inner, fields))
        }
        Value::Array(items) => items.iter().for_each(|inner| kinds(&format!("{path}[]"), inner, fields)),
        Value::Null => fields.push(format!("{path}: null")),
        Value::Bool(_) => fields.push(format!("{path}: bool")),
        Value::Number(_) => fields.push(format!("{path}: number")),
        Value::String(_) => fields.push(format!("{path}: text")),
    }
}
