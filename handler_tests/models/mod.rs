mod device;
mod flux;
mod golden;
mod image_processor;
mod rng;
mod schedulers;
mod text_encoders;
mod vae;
