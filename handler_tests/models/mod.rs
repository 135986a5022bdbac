mod flux;
mod golden;
mod rng;
mod schedulers;
mod text_encoders;
mod vae;
