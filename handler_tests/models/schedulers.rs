//! Schedules against diffusers', and what they refuse.

use candle_core::{DType, Device, Tensor};
use marquee::models::schedulers::{
    EulerConfig, EulerDiscrete, FlowMatch, FlowMatchConfig, FlowSchedule, ScheduleError,
};

use super::golden::Goldens;

fn column(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn flow_match_sigmas_and_timesteps_equal_diffusers() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("flow_match") {
        let number = |name: &str| case.parameters[name].as_u64().unwrap() as usize;
        let config: FlowMatchConfig = goldens.component(&case, "scheduler").config();
        let schedule =
            FlowMatch::new(config).unwrap().schedule(number("steps"), number("image_tokens")).unwrap();
        // Equal bits: the roundings are part of the port.
        goldens.close(&case, "sigmas", &column(&schedule.sigmas), 0.0);
        goldens.close(&case, "timesteps", &column(&schedule.timesteps), 0.0);
    }
}

#[test]
fn euler_schedules_and_steps_equal_diffusers() {
    let goldens = Goldens::open("stages");
    for case in goldens.cases("euler") {
        let steps = case.parameters["steps"].as_u64().unwrap() as usize;
        let config: EulerConfig = goldens.component(&case, "scheduler").config();
        let schedule = EulerDiscrete::new(config).unwrap().schedule(steps).unwrap();
        goldens.close(&case, "sigmas", &column(&schedule.sigmas), 2e-7);
        goldens.close(&case, "timesteps", &column(&schedule.timesteps), 2e-7);
        goldens.close(&case, "init_noise_sigma", &column(&[schedule.init_noise_sigma]), 2e-7);
        let (sample, prediction) = (goldens.input(&case, "sample"), goldens.input(&case, "prediction"));
        goldens.close(&case, "scaled", &schedule.scale_model_input(0, &sample).unwrap(), 2e-7);
        goldens.close(&case, "stepped", &schedule.step(0, &sample, &prediction).unwrap(), 5e-7);
    }
}

fn schedule(sigmas: &[f32]) -> FlowSchedule {
    FlowSchedule { sigmas: sigmas.to_vec(), timesteps: sigmas[1..].to_vec() }
}

/// Values worked out by hand with round-to-nearest-even at 8 significant bits.
#[test]
fn a_bf16_step_rounds_where_torch_rounds() {
    let bf16 = |x: &[f32]| column(x).to_dtype(DType::BF16).unwrap();
    // dt = -0.01 becomes -0.010009765625 in bf16; times 3 is -0.030029297 and rounds to -0.030029297 (bf16 has it).
    let schedule = schedule(&[0.5, 0.49]);
    let next = schedule.step(0, &bf16(&[1.0]), &bf16(&[3.0])).unwrap();
    assert_eq!(next.dtype(), DType::BF16);
    // 1 - 0.03003 = 0.96997 rounds to 0.96875 (spacing 1/256 below 1).
    assert_eq!(flat(&next), [0.96875]);
    // A wide sample is not rounded before the sum: 1.0019 would be 1 in bf16, and the result the one above.
    let next = schedule.step(0, &column(&[1.0019]), &bf16(&[3.0])).unwrap();
    assert_eq!(flat(&next), [0.97265625]);
}

#[test]
fn noise_is_mixed_with_sigma_in_the_samples_dtype() {
    // 0.9 is 0.8984375 in bf16, and 1 - that is 0.1015625; 1 - 0.9 alone would be 0.10009766.
    let schedule = schedule(&[0.9, 0.0]);
    let one = column(&[1.0]).to_dtype(DType::BF16).unwrap();
    let zero = column(&[0.0]).to_dtype(DType::BF16).unwrap();
    assert_eq!(flat(&schedule.add_noise(0, &zero, &one).unwrap()), [0.8984375]);
    assert_eq!(flat(&schedule.add_noise(0, &one, &zero).unwrap()), [0.1015625]);
    assert_eq!(flat(&schedule.add_noise(1, &one, &zero).unwrap()), [1.0]);
    assert!(schedule.add_noise(2, &one, &zero).is_err());
}

#[test]
fn strength_chooses_the_first_step() {
    let schedule = FlowMatch::new(FlowMatchConfig::default()).unwrap().schedule(28, 4096).unwrap();
    assert_eq!(schedule.start(1.0), Ok(0));
    // 28 * 0.6 = 16.8 steps remain: int(11.2).
    assert_eq!(schedule.start(0.6), Ok(11));
    assert!(schedule.start(0.0).unwrap_err().to_string().contains("strength"));
    assert!(matches!(schedule.start(1.5), Err(ScheduleError::OutOfRange { .. })));
    assert!(matches!(schedule.start(f64::NAN), Err(ScheduleError::OutOfRange { .. })));
}

#[test]
fn variants_that_would_change_the_picture_are_refused_by_name() {
    let flow: FlowMatchConfig = serde_json::from_str(r#"{"shift_terminal": 0.02}"#).unwrap();
    let error = FlowMatch::new(flow).unwrap_err().to_string();
    assert!(error.contains("shift_terminal") && error.contains("0.02"), "{error}");
    let euler: EulerConfig = serde_json::from_str(r#"{"prediction_type": "v_prediction"}"#).unwrap();
    let error = EulerDiscrete::new(euler).unwrap_err().to_string();
    assert!(error.contains("prediction_type") && error.contains("v_prediction"), "{error}");
}

#[test]
fn step_counts_outside_the_training_schedule_are_refused() {
    let flow = FlowMatch::new(FlowMatchConfig::default()).unwrap();
    assert!(flow.schedule(0, 4096).is_err());
    assert!(flow.schedule(1001, 4096).is_err());
    let euler = EulerDiscrete::new(EulerConfig::default()).unwrap();
    assert!(euler.schedule(0).is_err());
    assert!(euler.schedule(1000).is_ok());
}
