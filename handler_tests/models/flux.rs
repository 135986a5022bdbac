use candle_core::{DType, Device, Tensor};
use marquee::models::flux::{Conditioner, FluxConfig, Transformer};
use marquee::models::weights::Weights;
use std::collections::HashMap;

#[test]
fn scratch() {
    for (name, dev) in [("dev", true), ("schnell", false)] {
        let all =
            candle_core::safetensors::load(format!("/tmp/fx/{name}.safetensors"), &Device::Cpu).unwrap();
        let map: HashMap<String, Tensor> =
            all.iter().filter_map(|(k, v)| Some((k.strip_prefix("w.")?.to_owned(), v.clone()))).collect();
        let config = FluxConfig {
            num_layers: 2,
            num_single_layers: 2,
            attention_head_dim: 16,
            num_attention_heads: 2,
            joint_attention_dim: 32,
            pooled_projection_dim: 32,
            axes_dims_rope: [4, 4, 8],
            guidance_embeds: dev,
            ..FluxConfig::default()
        };
        for (dtype, key) in [(DType::F32, "y"), (DType::BF16, "yb")] {
            let w = Weights::from_map(map.clone(), dtype, &Device::Cpu);
            let net = Transformer::new(&config, &w).unwrap();
            let modulation =
                Conditioner::new(&config, &w).unwrap().precompute(&[987.654], 3.5, &all["p"]).unwrap();
            let rope = net.rope(7, 6, 4, &Device::Cpu).unwrap();
            let y = net
                .forward(
                    &all["x"].to_dtype(dtype).unwrap(),
                    &all["c"].to_dtype(dtype).unwrap(),
                    modulation.step(0),
                    &rope,
                    &mut |_| Ok(()),
                )
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap();
            let want = &all[key];
            let worst = (&y - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let top = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            println!("{name} {key} {worst} {top} rel {}", worst / top);
        }
    }
}
