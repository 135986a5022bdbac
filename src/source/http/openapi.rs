//! The API's own description. The schema of `input` comes from whoever knows it.

use serde_json::{Map, Value, json};

/// The OpenAPI 3.1 document; `input` becomes `components.schemas.Input`.
pub fn document(input: &Value) -> Value {
    let mut paths = Map::new();
    for (prefix, parameters) in [("", json!([])), ("/v2/{endpoint}", json!([path_parameter("endpoint")]))] {
        for (path, operations) in operations() {
            let mut operations = operations;
            if parameters.as_array().is_some_and(|list| !list.is_empty()) {
                operations["parameters"] = parameters.clone();
            }
            paths.insert(format!("{prefix}{path}"), operations);
        }
    }
    paths.insert(
        "/ping".into(),
        json!({ "get": { "summary": "Probe", "security": [], "responses": {
        "200": { "description": "jobs are taken" }, "503": { "description": "shutting down" } } } }),
    );
    // A schema of its own may carry definitions, whose references are relative to its root: `$id` makes it one.
    let mut input = input.clone();
    if let Some(members) = input.as_object_mut() {
        members.entry("$id").or_insert_with(|| json!("urn:marquee:input"));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Marquee",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A local stand-in for a RunPod serverless endpoint: same routes, same states.",
        },
        "security": [{ "bearer": [] }, {}],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Input": input, "Request": request(), "Status": status(), "Error": error() },
        },
    })
}

fn operations() -> Vec<(&'static str, Value)> {
    let body = json!({ "required": true, "content": { "application/json": {
        "schema": { "$ref": "#/components/schemas/Request" } } } });
    let wait = json!({ "name": "wait", "in": "query", "schema":
        { "type": "integer", "minimum": 1_000, "maximum": 300_000, "default": 90_000 },
        "description": "Milliseconds to wait for the result." });
    let with_id = |mut operations: Value| {
        for operation in operations.as_object_mut().into_iter().flatten().map(|(_, value)| value) {
            operation["parameters"] = json!([path_parameter("id")]);
        }
        operations
    };
    let submitted = |summary: &str| {
        json!({ "summary": summary, "requestBody": body, "responses": {
            "200": reply("Status"), "401": reply("Error"), "413": reply("Error"), "422": reply("Error"),
            "429": reply("Error"), "503": reply("Error") } })
    };
    let about = |summary: &str| {
        json!({ "summary": summary, "responses": {
            "200": reply("Status"), "401": reply("Error"), "404": reply("Error") } })
    };
    let mut runsync = submitted("Queue a job and wait for it");
    runsync["parameters"] = json!([wait]);
    let mut retry = about("Queue a FAILED or TIMED_OUT job again");
    retry["responses"]["409"] = reply("Error");
    vec![
        ("/run", json!({ "post": submitted("Queue a job") })),
        ("/runsync", json!({ "post": runsync })),
        (
            "/status/{id}",
            with_id(json!({ "get": about("State, progress, result"), "post": about("The same") })),
        ),
        (
            "/stream/{id}",
            with_id(json!({ "get": about("What is new since the last call"), "post": about("The same") })),
        ),
        ("/cancel/{id}", with_id(json!({ "post": about("Cancel a job") }))),
        ("/retry/{id}", with_id(json!({ "post": retry }))),
        (
            "/health",
            json!({ "get": { "summary": "Numbers of jobs and workers", "responses": { "200":
            { "description": "OK" } } } }),
        ),
        (
            "/purge-queue",
            json!({ "post": { "summary": "Cancel all waiting jobs", "responses": { "200":
            { "description": "OK" } } } }),
        ),
    ]
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

fn reply(schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": "", "content": { "application/json": { "schema": schema } } })
}

fn request() -> Value {
    json!({ "type": "object", "required": ["input"], "properties": {
        "input": { "$ref": "#/components/schemas/Input" },
        "webhook": { "type": "string", "format": "uri", "description":
            "http or https; receives the status object when the job has ended." },
        "policy": { "type": "object", "properties": {
            "executionTimeout": { "type": "integer", "minimum": 5_000, "maximum": 604_800_000 },
            "ttl": { "type": "integer", "minimum": 10_000, "maximum": 604_800_000 },
        } },
        "s3Config": { "type": "object", "description": "Accepted and ignored." },
    } })
}

fn status() -> Value {
    json!({ "type": "object", "required": ["id", "status"], "properties": {
        "id": { "type": "string" },
        "status": { "enum": ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"] },
        "delayTime": { "type": "integer", "description": "Milliseconds in the queue." },
        "executionTime": { "type": "integer", "description": "Milliseconds of running." },
        "output": { "description": "The result, or progress while IN_PROGRESS." },
        "error": { "type": "string" },
        "errorDetails": { "type": "object", "properties": {
            "kind": { "type": "string" }, "message": { "type": "string" }, "details": {} } },
        "stream": { "type": "array", "items": { "type": "object", "properties": { "output": {} } } },
    } })
}

fn error() -> Value {
    json!({ "type": "object", "required": ["error"], "properties": {
        "error": { "type": "string" },
        "detail": { "type": "array", "items": { "type": "object", "properties": {
            "type": { "type": "string" }, "loc": { "type": "array" }, "msg": { "type": "string" } } } },
    } })
}
