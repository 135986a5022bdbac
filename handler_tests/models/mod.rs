mod flux;
mod golden;
mod rng;
mod schedulers;
