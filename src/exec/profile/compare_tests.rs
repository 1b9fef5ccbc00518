use super::*;
use bytes::Bytes as Buffer;

fn row(values: &[f32]) -> Vec<Tensor> {
    let data = Buffer::copy_from_slice(bytemuck::cast_slice(values));
    vec![Tensor { dtype: DataType::Fp32, shape: vec![1, values.len()], data }]
}

fn spec(classes: usize) -> Vec<TensorSpec> {
    vec![TensorSpec { name: "y".to_owned(), dtype: DataType::Fp32, item_shape: vec![Some(classes)] }]
}

fn reference(outputs: Vec<Vec<Tensor>>, a: f64, b: f64) -> Expectation {
    let (reference_accuracy, accuracy) = (Ppm::from_fraction(a), Ppm::from_fraction(b));
    Expectation { outputs, source: ExpectationSource::Reference { reference_accuracy, accuracy } }
}

fn same_file(outputs: Vec<Vec<Tensor>>) -> Expectation {
    Expectation { outputs, source: ExpectationSource::SameFile { full_precision: true } }
}

/// Ten rows whose highest value is at the row's number modulo `classes`.
fn rows(scale: f32, shift: usize) -> Vec<Vec<Tensor>> {
    let one = |n: usize| {
        let values: Vec<f32> =
            (0..4).map(|class| if class == (n + shift) % 4 { scale } else { 0.1 }).collect();
        row(&values)
    };
    (0..10).map(one).collect()
}

#[test]
fn another_scale_with_the_same_ranking_is_fit() {
    // Relative error about 2, but every sample agrees.
    assert_eq!(compare(&spec(4), &rows(3.0, 0), &reference(rows(1.0, 0), 0.93, 0.9)), Ok(()));
}

#[test]
fn another_ranking_is_far_off_and_the_message_has_the_numbers() {
    let error = compare(&spec(4), &rows(1.0, 1), &reference(rows(1.0, 0), 0.93, 0.9)).unwrap_err();
    // q = 0.83, allowance 3*sqrt(0.83*0.17/10) = 0.356: at least 47 %.
    let text = error.to_string();
    assert!(text.contains("`y`") && text.contains("0 % (at least 47 %)"), "{text}");
}

#[test]
fn poor_accuracies_excuse_disagreement() {
    // Two classifiers of 50 % may disagree everywhere.
    assert_eq!(compare(&spec(4), &rows(1.0, 1), &reference(rows(1.0, 0), 0.5, 0.5)), Ok(()));
}

#[test]
fn constant_outputs_agree_with_nothing() {
    let constant = vec![row(&[0.7; 4]); 10];
    assert!(compare(&spec(4), &constant, &reference(rows(1.0, 0), 0.9, 0.9)).is_err());
}

#[test]
fn the_same_file_must_be_near() {
    let near: Vec<_> = (0..10).map(|_| row(&[1.0, 0.52])).collect();
    let expected: Vec<_> = (0..10).map(|_| row(&[1.0, 0.5])).collect();
    assert_eq!(compare(&spec(2), &near, &same_file(expected.clone())), Ok(()));
    let swapped: Vec<_> = (0..10).map(|_| row(&[0.5, 1.0])).collect();
    assert!(matches!(compare(&spec(2), &swapped, &same_file(expected)), Err(Unfit::FarOff { .. })));
}

#[test]
fn nan_and_infinity_are_refused_unless_the_reference_has_them() {
    for bad in [f32::NAN, f32::INFINITY] {
        let error = check_one(&spec(2), &row(&[1.0, bad]), Some(row(&[1.0, 2.0]).as_slice())).unwrap_err();
        assert!(matches!(error, Unfit::NotFinite { index: 1, .. }), "{error}");
        assert!(check_one(&spec(2), &row(&[bad, 1.0]), None).is_err());
    }
    let log = row(&[0.0, f32::NEG_INFINITY]);
    assert_eq!(check_one(&spec(2), &log, Some(log.as_slice())), Ok(()));
    assert_eq!(compare(&spec(2), std::slice::from_ref(&log), &same_file(vec![log.clone()])), Ok(()));
}

#[test]
fn another_shape_or_type_is_refused() {
    let error = check_one(&spec(2), &row(&[1.0, 2.0, 3.0]), Some(row(&[1.0, 2.0]).as_slice())).unwrap_err();
    assert_eq!(error.to_string(), "output `y` is FP32 [1, 3], expected FP32 [1, 2]");
    let half = vec![Tensor { dtype: DataType::Fp16, shape: vec![1, 2], data: Buffer::from_static(&[0; 4]) }];
    assert!(check_one(&spec(2), &half, None).is_err());
    assert!(check_one(&spec(2), &[], None).is_err());
}

#[test]
fn many_classes_leave_a_little_room_for_neighbours() {
    let bins = |best: usize| -> Vec<f32> {
        (0_u16..360)
            .map(|bin| 1.0 / (1.0 + (f32::from(bin) - f32::from(u16::try_from(best).unwrap())).abs()))
            .collect()
    };
    let expected: Vec<_> = (0..10).map(|n| row(&bins(20 * n))).collect();
    let beside: Vec<_> = (0..10).map(|n| row(&bins(20 * n + 2))).collect();
    let elsewhere: Vec<_> = (0..10).map(|n| row(&bins(20 * n + 100))).collect();
    assert_eq!(compare(&spec(360), &beside, &reference(expected.clone(), 0.99, 0.94)), Ok(()));
    assert!(compare(&spec(360), &elsewhere, &reference(expected, 0.99, 0.94)).is_err());
}

#[test]
fn every_element_type_is_read() {
    let of = |dtype, bytes: &'static [u8]| {
        values(&Tensor {
            dtype,
            shape: vec![bytes.len() / DataType::size(dtype)],
            data: Buffer::from_static(bytes),
        })
    };
    assert_eq!(of(DataType::Bool, &[0, 1]), [0.0, 1.0]);
    assert_eq!(of(DataType::Int8, &[0xff]), [-1.0]);
    assert_eq!(of(DataType::Uint16, &[1, 2]), [513.0]);
    assert_eq!(of(DataType::Int32, &[0xfe, 0xff, 0xff, 0xff]), [-2.0]);
    assert_eq!(of(DataType::Int64, &[3, 0, 0, 0, 0, 0, 0, 0]), [3.0]);
    assert_eq!(of(DataType::Fp16, &[0x00, 0x3c, 0x00, 0xc0]), [1.0, -2.0]);
    assert_eq!(of(DataType::Fp64, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]), [1.0]);
}
