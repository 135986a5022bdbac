mod flux;
mod golden;
mod rng;
