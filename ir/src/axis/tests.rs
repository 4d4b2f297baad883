//! Axis maps against dense matrices.

use proptest::prelude::*;

use super::*;

fn dense(map: &AxisMap) -> Vec<Vec<f32>> {
    let mut matrix = vec![vec![0.0; map.input() as usize]; map.output() as usize];
    for e in map.entries() {
        assert_eq!(matrix[e.output as usize][e.input as usize], 0.0, "places are unique");
        matrix[e.output as usize][e.input as usize] = e.factor;
    }
    matrix
}

fn map_of(input: std::ops::Range<u32>) -> impl Strategy<Value = AxisMap> {
    (input, 1u32..12).prop_flat_map(|(input, output)| {
        // Few factors, so that runs happen; quarters, so that sums are exact.
        let entry = (0..output, 0..input, 1i8..4).prop_map(|(output, input, f)| AxisEntry {
            output,
            input,
            factor: f32::from(f) / 4.0,
        });
        prop::collection::vec(entry, 0..30)
            .prop_map(move |entries| AxisMap::from_entries(input, output, &entries).unwrap())
    })
}

proptest! {
    #[test]
    fn runs_are_canonical(map in map_of(1..12)) {
        let entries: Vec<AxisEntry> = map.entries().collect();
        let again = AxisMap::from_entries(map.input(), map.output(), &entries).unwrap();
        prop_assert_eq!(&again, &map);
        prop_assert_eq!(&AxisMap::from_runs(map.input(), map.output(), map.runs()).unwrap(), &map);
        prop_assert_eq!(map.len(), entries.len());
    }

    #[test]
    fn composition_is_the_product_of_the_matrices(
        (first, second) in map_of(1..12).prop_flat_map(|f| {
            let middle = f.output();
            (Just(f), map_of(middle..middle + 1))
        })
    ) {
        let product = dense(&second.after(&first).unwrap());
        let (a, b) = (dense(&second), dense(&first));
        for (o, row) in product.iter().enumerate() {
            for (i, &found) in row.iter().enumerate() {
                let expected: f32 = (0..b.len()).map(|m| a[o][m] * b[m][i]).sum();
                prop_assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn common_maps_are_one_run_and_print_short() {
    let text = |map: Result<AxisMap, AxisError>| map.unwrap().to_string();
    assert_eq!(text(Ok(AxisMap::identity(16))), "16");
    assert_eq!(text(AxisMap::window(8, 4, 1, 2)), "8>4:0+1<1+2#4");
    assert_eq!(text(AxisMap::window(8, 8, 7, -1)), "8>8:0+1<7-1#8");
    assert_eq!(text(AxisMap::window(4, 7, -2, 1)), "4>7:2+1<0+1#4");
    assert_eq!(text(AxisMap::spread(4, 7, 0, 2)), "4>7:0+2<0+1#4");
    assert_eq!(text(AxisMap::gather(3, &[0, 0, 1, 1, 2, 2])), "3>6:0+2<0+1#3,1+2<0+1#3");
    assert_eq!(text(AxisMap::gather(6, &[0, 3, 1, 4, 2, 5])), "6>6:0+2<0+1#3,1+2<3+1#3");
    let mean = AxisMap::collect(4, 1, (0..4).map(|i| (0, i, 0.25)));
    assert_eq!(text(mean), "4>1:0<0+1#4*0.25");
    assert_eq!(text(AxisMap::from_entries(2, 3, &[])), "2>3:");
}

#[test]
fn selections_are_recognised() {
    assert_eq!(AxisMap::gather(3, &[2, 2, 0]).unwrap().selection(), Some(vec![2, 2, 0]));
    assert_eq!(AxisMap::window(3, 4, -1, 1).unwrap().selection(), None);
    assert!(AxisMap::window(5, 5, 0, 1).unwrap().is_identity());
    assert!(!AxisMap::window(5, 4, 0, 1).unwrap().is_identity());
    assert!(AxisMap::identity(1).is_identity() && AxisMap::window(1, 1, 0, 1).unwrap().is_identity());
}

#[test]
fn bad_maps_are_refused() {
    let entry = |output, input, factor| AxisEntry { output, input, factor };
    let of = |entries: &[AxisEntry]| AxisMap::from_entries(2, 3, entries);
    assert!(matches!(of(&[entry(3, 0, 1.0)]), Err(AxisError::Range { .. })));
    assert!(matches!(of(&[entry(0, 2, 1.0)]), Err(AxisError::Range { .. })));
    assert_eq!(of(&[entry(0, 0, f32::NAN)]), Err(AxisError::Entry));
    assert_eq!(of(&[entry(0, 0, f32::MAX), entry(0, 0, f32::MAX)]), Err(AxisError::Entry));
    assert!(of(&[entry(0, 0, 1.0), entry(0, 0, -1.0)]).unwrap().is_empty());
    assert!(matches!(AxisMap::from_entries(0, 3, &[]), Err(AxisError::Extent { .. })));
    assert!(matches!(AxisMap::window(4, MAX_AXIS_EXTENT + 1, 0, 1), Err(AxisError::Extent { .. })));
    let run = AxisRun { output: 0, output_step: 1, input: 1, input_step: -1, count: 2, factor: 1.0 };
    let runs = |runs: &[AxisRun]| AxisMap::from_runs(2, 3, runs);
    assert_eq!(runs(&[run]).unwrap().len(), 2);
    assert!(matches!(runs(&[AxisRun { count: 3, ..run }]), Err(AxisError::Range { .. })));
    assert!(matches!(runs(&[AxisRun { output_step: i32::MAX, ..run }]), Err(AxisError::Range { .. })));
    assert_eq!(runs(&[AxisRun { count: 0, ..run }]), Err(AxisError::Entry));
    let many = AxisRun { output_step: 0, input_step: 0, count: u32::MAX, ..run };
    assert_eq!(runs(&[many, many]), Err(AxisError::TooMany));
    let (a, b) = (AxisMap::identity(2), AxisMap::identity(3));
    assert!(matches!(a.after(&b), Err(AxisError::Range { .. })));
}
