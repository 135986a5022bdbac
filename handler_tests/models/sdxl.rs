//! SDXL's nets and pipelines against diffusers.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use marquee::models::sdxl::{ControlNet, ControlNetConfig, TIME_IDS, Unet, UnetConfig};
use marquee::models::weights::{Probe, Weights};
use serde::Deserialize;

use super::golden::{Case, Goldens};

const BOUND: f64 = 1e-5;

#[derive(Deserialize)]
struct Nets {
    timestep: f32,
    time_ids: Vec<[f32; TIME_IDS]>,
    scale: f64,
}

/// (height, width, 3) bytes to (1, 3, height, width) in [0, 1].
fn unit(bytes: &Tensor) -> Tensor {
    let divisor = Tensor::new(255f32, bytes.device()).unwrap();
    let values = bytes.to_dtype(DType::F32).unwrap().broadcast_div(&divisor).unwrap();
    values.permute((2, 0, 1)).unwrap().unsqueeze(0).unwrap().contiguous().unwrap()
}

fn nets(goldens: &Goldens, case: &Case, dtype: DType) -> (Unet, ControlNet) {
    let component = |role| goldens.component(case, role);
    let (unet, controlnet) = (component("unet"), component("controlnet"));
    (
        Unet::new(&unet.config::<UnetConfig>(), &unet.weights(dtype)).unwrap(),
        ControlNet::new(&controlnet.config::<ControlNetConfig>(), &controlnet.weights(dtype)).unwrap(),
    )
}

#[test]
fn unet_and_controlnet_equal_diffusers() {
    let goldens = Goldens::open("sdxl");
    for case in goldens.cases("sdxl_unet") {
        let p: Nets = serde_json::from_value(case.parameters.clone()).unwrap();
        let (unet, controlnet) = nets(&goldens, &case, DType::F32);
        let input = |role| goldens.input(&case, role);
        let (sample, text, pooled) = (input("sample"), input("text"), input("pooled"));
        let told = unet.condition(&text, &pooled, &p.time_ids).unwrap();
        goldens.close(&case, "output", &unet.forward(&sample, p.timestep, &told, None).unwrap(), BOUND);

        let hint = controlnet.hint(&unit(&input("hint"))).unwrap();
        let also_told = controlnet.condition(&text, &pooled, &p.time_ids).unwrap();
        let residuals = controlnet.forward(&sample, p.timestep, &also_told, &hint, p.scale).unwrap();
        goldens.close(&case, "middle", residuals.middle(), BOUND);
        if case.expected.contains_key("down.0") {
            assert_eq!(residuals.down().len(), 9);
            for (index, residual) in residuals.down().iter().enumerate() {
                goldens.close(&case, &format!("down.{index}"), residual, BOUND);
            }
        }
        let controlled = unet.forward(&sample, p.timestep, &told, Some(&residuals)).unwrap();
        goldens.close(&case, "controlled", &controlled, BOUND);
    }
}

/// Tensors and numbers of the published nets.
#[test]
fn full_size_nets_ask_for_the_published_tensors() {
    let asked = |build: &dyn Fn(&Weights)| {
        let probe = Arc::new(Probe::default());
        build(&Weights::probing(&probe));
        let expected = probe.expected();
        let numbers: usize = expected.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        (expected.len(), numbers)
    };
    let unet = asked(&|w| drop(Unet::new(&UnetConfig::sdxl(), w).unwrap()));
    assert_eq!(unet, (1680, 2_567_463_684));
    let controlnet = asked(&|w| drop(ControlNet::new(&ControlNetConfig::sdxl(), w).unwrap()));
    assert_eq!(controlnet, (844, 1_251_014_160));
}
