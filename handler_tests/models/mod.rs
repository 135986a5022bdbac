mod golden;
mod image_processor;
mod parity;
mod rng;
mod schedulers;
mod text_encoders;
mod tokenizers;
mod vae;
