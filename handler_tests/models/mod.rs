mod flux;
mod golden;
mod image_processor;
mod rng;
mod schedulers;
mod text_encoders;
mod tokenizers;
mod vae;
