//! From the engine's images to the JSON object that is delivered.
